"""Gemma 2 and 3: norms before and behind attention and MLP, and some layers that look back a window of tokens.

Gemma 2 caps scores and logits; Gemma 3 normalizes queries and keys instead, and turns them by two bases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from examples.llm.config import LlamaConfig, rope_of
from examples.llm.errors import ModelError, require_size

from .causal import CausalLM
from .parts import Attention, GatedMLP, NormedAttention, emit, gelu_new, rms_norm, split_heads
from .rope import plain_frequencies, rotate
from .step import Step


@dataclass(frozen=True)
class GemmaConfig(LlamaConfig):
    """Sizes of a Gemma. A layer of `sliding_layers` looks back `sliding_window` tokens."""

    SLIDING: ClassVar[int] = 2
    """One layer in so many sees all, where the configuration does not say which."""
    sliding_layers: tuple[bool, ...] = ()
    query_scalar: float = 256.0
    """Scores are divided by its root."""

    @property
    def layer_windows(self) -> tuple[int, ...]:
        return tuple(self.sliding_window if sliding else 0 for sliding in self.sliding_layers)

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        fields = super().hf_fields(config, source)
        every = config.get("sliding_window_pattern", cls.SLIDING)
        kinds = config.get("layer_types") or ["full" if (i + 1) % every == 0 else "sliding" for i in range(fields["num_hidden_layers"])]
        return {
            **fields,
            "sliding_layers": tuple(kind.startswith("sliding") for kind in kinds),
            "query_scalar": float(config.get("query_pre_attn_scalar", 256)),
            "tie_word_embeddings": config.get("tie_word_embeddings", True),
            "head_dim": require_size(config, "head_dim", source),
        }


@dataclass(frozen=True)
class Gemma2Config(GemmaConfig):
    """Sizes of a Gemma 2."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("gemma2",)
    EXPECTED: ClassVar[Mapping[str, Any]] = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False}
    logit_cap: float = 0.0
    """0: logits are as they are."""

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        caps = (float(config.get(f"{name}_logit_softcapping", usual) or 0.0) for name, usual in (("attn", 50.0), ("final", 30.0)))
        return {**super().hf_fields(config, source), **dict(zip(("score_cap", "logit_cap"), caps, strict=True))}


@dataclass(frozen=True)
class Gemma3Config(GemmaConfig):
    """Sizes of a Gemma 3. Layers with a window have a RoPE base of their own."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    EXPECTED: ClassVar[Mapping[str, Any]] = {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }
    SLIDING: ClassVar[int] = 6
    local_theta: float = 10000.0
    rope_factor: float = 1.0
    """What the frequencies of the other layers are divided by."""

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
        return {
            **super().hf_fields({**config, "rope_parameters": None, "rope_scaling": None}, source),
            "rope_theta": float(config.get("rope_theta", whole.get("rope_theta", 1e6))),
            "local_theta": float(config.get("rope_local_base_freq", local.get("rope_theta", 10000.0))),
            "rope_factor": float(whole.get("factor", 1.0)),
        }


class Gemma2Attention(Attention):
    """Attention whose scores have a scale of their own; the cache caps them."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__(config)
        self.scale = config.query_scalar**-0.5


class Gemma3Attention(NormedAttention):
    """Normalized queries and keys, turned here: the cache knows one base for all layers."""

    def __init__(self, config: Gemma3Config) -> None:
        super().__init__(config)
        self.gemma, self.scale = config, config.query_scalar**-0.5

    def prepared(self, qkv: Tensor, step: Step, layer: int) -> Tensor:
        q, k, v = split_heads(qkv, self.config)
        cos, sin = step.angles(self.gemma.frequencies(layer))
        return op.concat([rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v], dim=2)


class GemmaLayer(nn.Module):
    """Attention and MLP, each between two norms."""

    def __init__(self, config: GemmaConfig, attention: nn.Module) -> None:
        self.input_layernorm, self.post_attention_layernorm = rms_norm(config), rms_norm(config)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = rms_norm(config), rms_norm(config)
        self.self_attn, self.mlp = attention, GatedMLP(config, activation=gelu_new)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), *context))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Gemma(CausalLM):
    """What the models of Gemma 2 and 3 share."""

    config: GemmaConfig

    def layer(self, index: int) -> nn.Module:
        return GemmaLayer(self.config, self.attention(index))

    def embedded(self, x: Tensor, step: Step) -> Tensor:
        return x * self.config.hidden_size**0.5

    @staticmethod
    def adjusted(config: LlamaConfig, name: str, array: np.ndarray) -> np.ndarray:
        """The checkpoint's norms are added to one."""
        return array.astype("float32") + 1.0 if "norm.weight" in name else array


class Gemma2(Gemma):
    """The model of Gemma 2."""

    Config = Gemma2Config
    config: Gemma2Config

    def attention(self, index: int) -> nn.Module:
        return Gemma2Attention(self.config)

    def logits(self, x: Tensor) -> Tensor:
        logits, cap = super().logits(x), self.config.logit_cap
        return emit(relax.op.tanh((logits / cap)._expr), "tanh") * cap if cap else logits


class Gemma3(Gemma):
    """The model of Gemma 3, for text."""

    Config = Gemma3Config
    config: Gemma3Config
    rope_in_cache = False

    def attention(self, index: int) -> nn.Module:
        return Gemma3Attention(self.config)
