"""GPT-NeoX and Pythia: layer norms with biases, attention and MLP beside each other, and a part of each head that turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from examples.llm.config import LlamaConfig, rope_of

from .causal import CausalLM, Decoder
from .parts import Attention, Layer, PlainMLP, layer_norm


@dataclass(frozen=True)
class GPTNeoXConfig(LlamaConfig):
    """Sizes of a GPT-NeoX; `rms_norm_eps` is the epsilon of its layer norms."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("gpt_neox",)
    EXPECTED: ClassVar[Mapping[str, Any]] = {"hidden_act": "gelu", "attention_bias": True}
    parallel: bool = True
    """Whether attention and MLP stand beside each other."""

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        fields, rope = super().hf_fields(config, source), rope_of(config)
        turning = int(fields["head_dim"] * config.get("rotary_pct", rope.get("partial_rotary_factor", 0.25)))
        return {
            **fields,
            "rms_norm_eps": config.get("layer_norm_eps", 1e-5),
            "rope_theta": float(config.get("rotary_emb_base", rope.get("rope_theta", 10000.0))),
            "rotary_dim": turning if turning < fields["head_dim"] else 0,
            "parallel": config.get("use_parallel_residual", True),
        }


class GPTNeoXLayer(Layer):
    """Attention and MLP, one behind the other or both of the same."""

    def __init__(self, config: GPTNeoXConfig) -> None:
        super().__init__(config, Attention(config, qkv_bias=True, bias=True), PlainMLP(config, op.gelu), layer_norm)
        self.parallel = config.parallel

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        if not self.parallel:
            return super().forward(x, *context)
        attended = self.self_attn(self.input_layernorm(x), *context)
        return x + (attended + self.mlp(self.post_attention_layernorm(x)))


class GPTNeoX(CausalLM):
    """The model of GPT-NeoX."""

    Config = GPTNeoXConfig
    config: GPTNeoXConfig
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    NAMES = (
        ("model.embed_tokens", "gpt_neox.embed_in"),
        ("model.norm", "gpt_neox.final_layer_norm"),
        ("lm_head", "embed_out"),
        ("model.layers", "gpt_neox.layers"),
        ("self_attn.qkv_proj", "attention.query_key_value"),
        ("self_attn.o_proj", "attention.dense"),
        ("up_proj", "dense_h_to_4h"),
        ("down_proj", "dense_4h_to_h"),
    )

    def decoder(self) -> nn.Module:
        config = self.config
        layers: list[nn.Module] = [GPTNeoXLayer(config) for _ in range(config.num_hidden_layers)]
        return Decoder(config, layers, layer_norm(config))

    @staticmethod
    def adjusted(config: LlamaConfig, name: str, array: np.ndarray) -> np.ndarray:
        """The checkpoint has query, key and value of one head after those of another: here all queries come first."""
        if "qkv_proj" not in name:
            return array
        heads = array.reshape(config.num_attention_heads, 3, config.head_dim, *array.shape[1:])
        return np.ascontiguousarray(heads.swapaxes(0, 1)).reshape(array.shape)
