"""Llama in NumPy: the ground truth for rotary embeddings, shared key/value heads and the cache."""

from __future__ import annotations

import numpy as np

from examples.llm.config import LlamaConfig

Weights = dict[str, np.ndarray]


def random_checkpoint(config: LlamaConfig, seed: int = 0) -> Weights:
    """Weights under Hugging Face's names, unfused, large enough that every part of the model matters."""
    random = np.random.default_rng(seed)
    hidden, ffn, d = config.hidden_size, config.intermediate_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * 1.5 / np.sqrt(columns)).astype("float32")

    def norm() -> np.ndarray:
        return random.uniform(0.5, 1.5, hidden).astype("float32")

    weights = {"model.embed_tokens.weight": random.standard_normal((config.vocab_size, hidden)).astype("float32")}
    for i in range(config.num_hidden_layers):
        layer = {"input_layernorm": norm(), "post_attention_layernorm": norm()}
        layer |= {"self_attn.q_proj": matrix(heads * d, hidden), "self_attn.k_proj": matrix(kv_heads * d, hidden)}
        layer |= {"self_attn.v_proj": matrix(kv_heads * d, hidden), "self_attn.o_proj": matrix(hidden, heads * d)}
        layer |= {"mlp.gate_proj": matrix(ffn, hidden), "mlp.up_proj": matrix(ffn, hidden)}
        layer |= {"mlp.down_proj": matrix(hidden, ffn)}
        weights |= {f"model.layers.{i}.{name}.weight": array for name, array in layer.items()}
    weights["model.norm.weight"] = norm()
    if not config.tie_word_embeddings:
        weights["lm_head.weight"] = matrix(config.vocab_size, hidden)
    return weights


def inverse_frequencies(config: LlamaConfig) -> np.ndarray:
    """(head_dim / 2,), element by element as `_compute_llama3_parameters` of transformers says it."""
    plain = [config.rope_theta ** (-2 * i / config.head_dim) for i in range(config.head_dim // 2)]
    if not config.rope_scaling:
        return np.array(plain)
    factor, low, high, length = (
        config.rope_scaling[key] for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    stretched = []
    for frequency in plain:
        wavelength = 2 * np.pi / frequency
        if wavelength < length / high:
            stretched.append(frequency)
        elif wavelength > length / low:
            stretched.append(frequency / factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            stretched.append((1 - smooth) * frequency / factor + smooth * frequency)
    return np.array(stretched)


def rope(x: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """x: (s, heads, d), positions 0 to s-1; dimension i turns with dimension i + d/2."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[0])[:, None] * frequencies
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def forward(config: LlamaConfig, weights: Weights, ids: list[int]) -> np.ndarray:
    """Logits (s, vocab) in float64 of every position."""
    w = {name: array.astype("float64") for name, array in weights.items()}
    heads, kv_heads, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    s = len(ids)

    def rms(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps) * w[f"{name}.weight"]

    x = w["model.embed_tokens.weight"][ids]
    for i in range(config.num_hidden_layers):
        p = f"model.layers.{i}."
        h = rms(x, p + "input_layernorm")
        q = (h @ w[p + "self_attn.q_proj.weight"].T).reshape(s, heads, d)
        k = (h @ w[p + "self_attn.k_proj.weight"].T).reshape(s, kv_heads, d)
        v = (h @ w[p + "self_attn.v_proj.weight"].T).reshape(s, kv_heads, d)
        q, k = rope(q, inverse_frequencies(config)), rope(k, inverse_frequencies(config))
        out = np.zeros((s, heads, d))
        for head in range(heads):
            shared = head // (heads // kv_heads)
            score = q[:, head] @ k[:, shared].T / np.sqrt(d)
            score[np.triu_indices(s, 1)] = -np.inf
            attention = np.exp(score - score.max(-1, keepdims=True))
            out[:, head] = attention / attention.sum(-1, keepdims=True) @ v[:, shared]
        x = x + out.reshape(s, heads * d) @ w[p + "self_attn.o_proj.weight"].T
        h = rms(x, p + "post_attention_layernorm")
        gate, up = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
    head_weight = w["model.embed_tokens.weight"] if config.tie_word_embeddings else w["lm_head.weight"]
    return rms(x, "model.norm") @ head_weight.T


def greedy(config: LlamaConfig, weights: Weights, ids: list[int], count: int) -> list[int]:
    """The `count` likeliest tokens after `ids`, each from a forward pass over everything before it."""
    sequence = list(ids)
    for _ in range(count):
        sequence.append(int(forward(config, weights, sequence)[-1].argmax()))
    return sequence[len(ids) :]
