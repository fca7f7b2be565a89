"""Names, fusing and the row order of weights: what a checkpoint holds against what the model takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .config import LlamaConfig
from .errors import ModelError

Read = Callable[[str], np.ndarray]
"""Reads one tensor of a checkpoint by the checkpoint's name, in the model's row order."""

LAYER_PARTS: Mapping[str, tuple[str, ...]] = {
    "input_layernorm": ("input_layernorm",),
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "post_attention_layernorm": ("post_attention_layernorm",),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
"""{weight of a layer: the checkpoint's tensors that stand one under another in it}, in parameter order."""


def hf_sources(config: LlamaConfig) -> dict[str, tuple[str, ...]]:
    """{model's name: the Hugging Face tensors that stand one under another in it}, in parameter order."""
    sources: dict[str, tuple[str, ...]] = {"model.embed_tokens.weight": ("model.embed_tokens.weight",)}
    for index in range(config.num_hidden_layers):
        prefix = f"model.layers.{index}."
        for name, parts in LAYER_PARTS.items():
            sources[f"{prefix}{name}.weight"] = tuple(f"{prefix}{part}.weight" for part in parts)
    sources["model.norm.weight"] = ("model.norm.weight",)
    if not config.tie_word_embeddings:
        sources["lm_head.weight"] = ("lm_head.weight",)
    return sources


def expected_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """{Hugging Face tensor's name without `model.layers.N.`: its shape}."""
    hidden, ffn, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    q, kv, _ = config.qkv_sizes
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (vocab, hidden),
        "lm_head": (vocab, hidden),
        "model.norm": (hidden,),
    }
    shapes |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    shapes |= {"self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden)}
    shapes |= {"self_attn.o_proj": (hidden, q), "mlp.down_proj": (hidden, ffn)}
    return shapes | {"mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden)}


def assemble(config: LlamaConfig, read: Read, source: str) -> dict[str, np.ndarray]:
    """{model's name: array} in `config.dtype`, fused; raises ModelError for a shape that the sizes do not say."""
    shapes = expected_shapes(config)
    weights = {}
    for name, parts in hf_sources(config).items():
        arrays = []
        for part in parts:
            array = read(part)
            kind = part.removesuffix(".weight")
            kind = kind.split(".", 3)[3] if kind.startswith("model.layers.") else kind
            if array.shape != shapes[kind]:
                what = f"'{part}' has shape {array.shape}, and its configuration says {shapes[kind]}"
                raise ModelError(source, what, "Use files of one model.")
            arrays.append(array.astype(config.dtype, copy=False))
        weights[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return weights


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's row order of q and k: rows (2i, 2i+1) of a head go back to (i, i + d/2), as rotate-half wants.

    rows: (heads * d, ...). llama.cpp's convert script does reshape(heads, 2, d/2).swapaxes(1, 2).
    """
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


GGUF_NAMES: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor: model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight."""
    kind = name.removesuffix(".weight")
    if not kind.startswith("model.layers."):
        return f"{GGUF_NAMES[kind]}.weight"
    _, _, index, part = kind.split(".", 3)
    return f"blk.{index}.{GGUF_NAMES[part]}.weight"
