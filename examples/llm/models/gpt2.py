"""GPT-2: layer norms with biases, and positions that are learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from examples.llm.config import LlamaConfig
from examples.llm.errors import require_size

from .causal import CausalLM, Decoder
from .parts import Attention, Embedding, Layer, PlainMLP, gelu_new, layer_norm
from .step import Step


@dataclass(frozen=True)
class GPT2Config(LlamaConfig):
    """Sizes of a GPT-2; `rms_norm_eps` is the epsilon of its layer norms."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("gpt2",)
    EXPECTED: ClassVar[Mapping[str, Any]] = {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    }

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        hidden, heads = require_size(config, "n_embd", source), require_size(config, "n_head", source)
        return {
            "hidden_size": hidden,
            "intermediate_size": config.get("n_inner") or 4 * hidden,
            "num_hidden_layers": require_size(config, "n_layer", source),
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": require_size(config, "vocab_size", source),
            "head_dim": hidden // heads,
            "rms_norm_eps": config.get("layer_norm_epsilon", 1e-5),
            "max_position_embeddings": require_size(config, "n_positions", source),
            "tie_word_embeddings": config.get("tie_word_embeddings", True),
            "model_type": "gpt2",
        }


class GPT2Decoder(Decoder):
    """A decoder with a table of positions."""

    def __init__(self, config: GPT2Config) -> None:
        layers: list[nn.Module] = [
            Layer(config, Attention(config, qkv_bias=True, bias=True), PlainMLP(config, gelu_new), layer_norm)
            for _ in range(config.num_hidden_layers)
        ]
        super().__init__(config, layers, layer_norm(config))
        self.positions = Embedding(config.max_position_embeddings, config.hidden_size)


class GPT2(CausalLM):
    """The model of GPT-2."""

    Config = GPT2Config
    config: GPT2Config
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    NAMES = (
        ("model.embed_tokens", "transformer.wte"),
        ("model.positions", "transformer.wpe"),
        ("model.norm", "transformer.ln_f"),
        ("model.layers", "transformer.h"),
        ("input_layernorm", "ln_1"),
        ("post_attention_layernorm", "ln_2"),
        ("self_attn.qkv_proj", "attn.c_attn"),
        ("self_attn.o_proj", "attn.c_proj"),
        ("mlp.up_proj", "mlp.c_fc"),
        ("mlp.down_proj", "mlp.c_proj"),
    )
    rope_in_cache = False

    def decoder(self) -> nn.Module:
        return GPT2Decoder(self.config)

    def embedded(self, x: Tensor, step: Step) -> Tensor:
        return x + self.model.positions(step.positions())

    @staticmethod
    def adjusted(config: LlamaConfig, name: str, array: np.ndarray) -> np.ndarray:
        """The checkpoint's products have inputs before outputs."""
        return np.ascontiguousarray(array.T) if "_proj.weight" in name else array
