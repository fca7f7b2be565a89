"""Small models of each architecture: what stands in their `config.json`, and random weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.llm.config import LlamaConfig
from examples.llm.models import read_config
from examples.llm.weights import parameter_shapes

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
}
EXPERTS = {**SIZES, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    **{key: value for key, value in EXPERTS.items() if key != "head_dim"},
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 6,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 0.7,
    "mscale_all_dim": 1.0,
    "beta_fast": 4,
    "beta_slow": 1,
    "rope_theta": 500.0,
}
GPT2 = {"n_embd": 48, "n_head": 6, "n_layer": 2, "n_positions": 64, "vocab_size": 50}

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "model_type": "llama"},
    "mistral": {**SIZES, "model_type": "mistral", "sliding_window": 6},
    "qwen2": {**SIZES, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**SIZES, "model_type": "qwen3"},
    "gemma2": {
        **SIZES,
        "model_type": "gemma2",
        "sliding_window": 6,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 0.75,
        "final_logit_softcapping": 2.0,
        "tie_word_embeddings": True,
    },
    "gemma3": {
        **SIZES,
        "model_type": "gemma3_text",
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 12,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
        },
    },
    "phi3": {**SIZES, "model_type": "phi3", "pad_token_id": 0},
    "olmo2": {**SIZES, "model_type": "olmo2"},
    "gpt2": {**GPT2, "model_type": "gpt2"},
    "gpt_neox": {**SIZES, "model_type": "gpt_neox", "num_key_value_heads": 6, "rotary_pct": 0.5},
    "mixtral": {**EXPERTS, "model_type": "mixtral", "num_local_experts": 6},
    "qwen3_moe": {**EXPERTS, "model_type": "qwen3_moe", "num_experts": 6, "norm_topk_prob": True, "mlp_only_layers": [1]},
    "deepseek_v2": {**LATENT, "model_type": "deepseek_v2", "q_lora_rank": None, "topk_method": "group_limited_greedy"},
    "deepseek_v3": {**LATENT, "model_type": "deepseek_v3", "q_lora_rank": 20, "rope_scaling": YARN},
}


WIDE = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 128, "head_dim": 32, "num_attention_heads": 8}
WIDE |= {"num_key_value_heads": 4, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}
"""Sizes of which a half is whole groups of quantized weights."""


def config_of(name: str, **sizes: int) -> LlamaConfig:
    """The configuration of one of SETTINGS, some sizes changed."""
    return read_config({**SETTINGS[name], **{key: size for key, size in sizes.items() if key in SETTINGS[name]}})


def random_weights(config: LlamaConfig) -> dict[str, np.ndarray]:
    """Weights under the model's names, large enough that every part of the model matters."""
    random = np.random.default_rng(7)
    return {name: _random(random, shape) for name, shape in parameter_shapes(config).items()}


def _random(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return random.uniform(0.5, 1.5, shape).astype("float32")
    return (random.standard_normal(shape) * 1.5 / np.sqrt(shape[-1])).astype("float32")
