"""Qwen 2, which has biases on queries, keys and values; Qwen 3, which normalizes queries and keys instead; and its mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm.relax.frontend import nn

from examples.llm.config import LlamaConfig
from examples.llm.errors import require_size

from .causal import CausalLM
from .experts import BEST, MixtureOfExperts, Routing
from .parts import Attention, GatedMLP, NormedAttention


@dataclass(frozen=True)
class QwenConfig(LlamaConfig):
    """Sizes of a dense Qwen."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("qwen2", "qwen3")
    EXPECTED: ClassVar[Mapping[str, Any]] = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        return {**super().hf_fields(config, source), "sliding_window": 0}  # which stands there unused


@dataclass(frozen=True)
class Qwen3MoeConfig(QwenConfig):
    """Sizes of a Qwen 3 with experts in each layer but those of `dense_layers`."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("qwen3_moe",)
    num_experts: int = 0
    moe_intermediate_size: int = 0
    routing: Routing = BEST
    dense_layers: frozenset[int] = frozenset()

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        every, layers = config.get("decoder_sparse_step", 1), require_size(config, "num_hidden_layers", source)
        plain = {i for i in range(layers) if (i + 1) % every} | set(config.get("mlp_only_layers") or ())
        return {
            **super().hf_fields(config, source),
            "num_experts": require_size(config, "num_experts" if "num_experts" in config else "num_local_experts", source),
            "moe_intermediate_size": require_size(config, "moe_intermediate_size", source),
            "routing": Routing(require_size(config, "num_experts_per_tok", source), normalized=config.get("norm_topk_prob", False)),
            "dense_layers": frozenset(plain),
        }


class Qwen2(CausalLM):
    """The model of Qwen 2."""

    Config = QwenConfig

    def attention(self, index: int) -> nn.Module:
        return Attention(self.config, qkv_bias=True)


class Qwen3(CausalLM):
    """The model of Qwen 3."""

    Config = QwenConfig

    def attention(self, index: int) -> nn.Module:
        return NormedAttention(self.config)


class Qwen3Moe(Qwen3):
    """The model of Qwen 3 with experts."""

    Config = Qwen3MoeConfig
    config: Qwen3MoeConfig
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {**CausalLM.PARTS, **MixtureOfExperts.PARTS}

    def mlp(self, index: int) -> nn.Module:
        config = self.config
        if index in config.dense_layers:
            return GatedMLP(config)
        return MixtureOfExperts(config, config.num_experts, config.moe_intermediate_size, config.routing)
