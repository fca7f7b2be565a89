"""Gemma 3: norms before and behind attention and MLP, normalized queries and keys, and some layers that look back a window of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from examples.llm.config import LlamaConfig, rope_of
from examples.llm.errors import ModelError, require_size

from .causal import CausalLM
from .parts import GatedMLP, NormedAttention, gelu_new, rms_norm, split_heads
from .rope import plain_frequencies, rotate
from .step import Step


@dataclass(frozen=True)
class Gemma3Config(LlamaConfig):
    """Sizes of a Gemma 3. A layer of `sliding_layers` looks back `sliding_window` tokens and has a RoPE base of its own."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    EXPECTED: ClassVar[Mapping[str, Any]] = {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }
    sliding_layers: tuple[bool, ...] = ()
    local_theta: float = 10000.0
    rope_factor: float = 1.0
    """What the frequencies of the other layers are divided by."""
    query_scalar: float = 256.0
    """Scores are divided by its root."""

    @property
    def layer_windows(self) -> tuple[int, ...]:
        return tuple(self.sliding_window if sliding else 0 for sliding in self.sliding_layers)

    def frequencies(self, layer: int) -> np.ndarray:
        """(head_dim / 2,): how fast the dimensions of a layer's queries and keys turn."""
        if self.sliding_layers[layer]:
            return plain_frequencies(self.local_theta, self.head_dim)
        return plain_frequencies(self.rope_theta, self.head_dim) / self.rope_factor

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        rope = rope_of(config)
        whole, local = rope.get("full_attention", rope), rope.get("sliding_attention", {})
        kind = whole.get("rope_type", "default")
        if kind not in ("default", "linear"):
            raise ModelError(source, f"RoPE scaling '{kind}' is not supported", "Use a model with none, or with 'linear'.")
        fields = super().hf_fields({**config, "rope_parameters": None, "rope_scaling": None}, source)
        every = config.get("sliding_window_pattern", 6)
        kinds = config.get("layer_types") or ["full" if (i + 1) % every == 0 else "sliding" for i in range(fields["num_hidden_layers"])]
        return {
            **fields,
            "rope_theta": float(config.get("rope_theta", whole.get("rope_theta", 1e6))),
            "local_theta": float(config.get("rope_local_base_freq", local.get("rope_theta", 10000.0))),
            "rope_factor": float(whole.get("factor", 1.0)),
            "sliding_layers": tuple(kind.startswith("sliding") for kind in kinds),
            "query_scalar": float(config.get("query_pre_attn_scalar", 256)),
            "tie_word_embeddings": config.get("tie_word_embeddings", True),
            "head_dim": require_size(config, "head_dim", source),
        }


class Gemma3Attention(NormedAttention):
    """Normalized queries and keys, turned here: the cache knows one base for all layers."""

    def __init__(self, config: Gemma3Config) -> None:
        super().__init__(config)
        self.gemma, self.scale = config, config.query_scalar**-0.5

    def prepared(self, qkv: Tensor, step: Step, layer: int) -> Tensor:
        q, k, v = split_heads(qkv, self.config)
        cos, sin = step.angles(self.gemma.frequencies(layer))
        return op.concat([rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v], dim=2)


class Gemma3Layer(nn.Module):
    """Attention and MLP, each between two norms."""

    def __init__(self, config: Gemma3Config) -> None:
        self.input_layernorm, self.post_attention_layernorm = rms_norm(config), rms_norm(config)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = rms_norm(config), rms_norm(config)
        self.self_attn, self.mlp = Gemma3Attention(config), GatedMLP(config, activation=gelu_new)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), *context))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Gemma3(CausalLM):
    """The model of Gemma 3, for text."""

    Config = Gemma3Config
    config: Gemma3Config
    rope_in_cache = False

    def layer(self, index: int) -> nn.Module:
        return Gemma3Layer(self.config)

    def embedded(self, x: Tensor, step: Step) -> Tensor:
        return x * self.config.hidden_size**0.5

    @staticmethod
    def adjusted(config: LlamaConfig, name: str, array: np.ndarray) -> np.ndarray:
        """The checkpoint's norms are added to one."""
        return array.astype("float32") + 1.0 if "norm.weight" in name else array
