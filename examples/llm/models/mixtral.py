"""Mixtral: a Llama with a mixture of experts in the place of each MLP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm.relax.frontend import nn

from examples.llm.config import LlamaConfig
from examples.llm.errors import require_size

from .causal import CausalLM
from .experts import BEST, MixtureOfExperts, Routing


@dataclass(frozen=True)
class MixtralConfig(LlamaConfig):
    """Sizes of a Mixtral."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("mixtral",)
    num_experts: int = 0
    routing: Routing = BEST

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        routing = Routing(require_size(config, "num_experts_per_tok", source), normalized=True)
        return {**super().hf_fields(config, source), "num_experts": require_size(config, "num_local_experts", source), "routing": routing}


class Mixtral(CausalLM):
    """The model of Mixtral."""

    Config = MixtralConfig
    config: MixtralConfig
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **CausalLM.PARTS,
        "mlp.experts.gate_up_proj": ("mlp.experts.{e}.w1", "mlp.experts.{e}.w3"),
        "mlp.experts.down_proj": ("mlp.experts.{e}.w2",),
    }
    NAMES = ((".mlp.", ".block_sparse_moe."),)

    def mlp(self, index: int) -> nn.Module:
        config = self.config
        return MixtureOfExperts(config, config.num_experts, config.intermediate_size, config.routing)
