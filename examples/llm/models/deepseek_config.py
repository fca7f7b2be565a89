"""What a DeepSeek V2 or V3 is, from its `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from examples.llm.config import LlamaConfig, rope_of
from examples.llm.errors import ModelError, require_size

from .experts import BEST, Routing
from .rope import plain_frequencies, yarn_frequencies


@dataclass(frozen=True)
class DeepSeekConfig(LlamaConfig):
    """Sizes of a DeepSeek V2 or V3. `head_dim` is that of queries and keys: `nope_dim`, and `rope_dim` that turn."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("deepseek_v2", "deepseek_v3")
    q_rank: int = 0
    """Size of the latent vector of queries; 0: there is none."""
    kv_rank: int = 0
    nope_dim: int = 0
    rope_dim: int = 0
    v_dim: int = 0
    num_experts: int = 0
    shared_experts: int = 0
    moe_intermediate_size: int = 0
    dense_layers: int = 0
    """So many first layers have no experts."""
    routing: Routing = BEST
    yarn: Mapping[str, Any] | None = None
    corrected: bool = False
    """Whether experts have a bias when they are compared."""

    @property
    def frequencies(self) -> np.ndarray:
        """(rope_dim / 2,): how fast dimensions turn."""
        if self.yarn is None:
            return plain_frequencies(self.rope_theta, self.rope_dim)
        return yarn_frequencies(self.rope_theta, self.rope_dim, self.yarn)

    @property
    def magnitudes(self) -> tuple[float, float]:
        """What YaRN multiplies scores by, and cosines and sines."""
        if self.yarn is None:
            return 1.0, 1.0

        def of(scale: float) -> float:
            return 0.1 * scale * float(np.log(self.yarn["factor"])) + 1.0 if self.yarn["factor"] > 1 else 1.0

        every, some = self.yarn.get("mscale_all_dim") or 0, self.yarn.get("mscale")
        return of(every) ** 2 if every else 1.0, of(some) / of(every) if some and every else of(1.0)

    @classmethod
    def hf_fields(cls, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        rope, sizes = rope_of(config), ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "moe_intermediate_size")
        rank, nope, turning, value, inner = (require_size(config, name, source) for name in sizes)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "yarn"):
            raise ModelError(source, f"RoPE scaling '{kind}' is not supported", "Use a model with none, or with 'yarn'.")
        if not config.get("rope_interleave", True):
            raise ModelError(source, "rope_interleave is False", "Use a model where it is True.")
        return {
            **super().hf_fields({**config, "rope_parameters": None, "rope_scaling": None}, source),
            "rope_theta": float(config.get("rope_theta", rope.get("rope_theta", 10000.0))),
            "yarn": dict(rope) if kind == "yarn" else None,
            "num_key_value_heads": require_size(config, "num_attention_heads", source),
            "head_dim": nope + turning,
            "q_rank": config.get("q_lora_rank") or 0,
            "kv_rank": rank,
            "nope_dim": nope,
            "rope_dim": turning,
            "v_dim": value,
            "moe_intermediate_size": inner,
            "num_experts": require_size(config, "n_routed_experts", source),
            "shared_experts": config.get("n_shared_experts") or 0,
            "dense_layers": config.get("first_k_dense_replace", 0),
            "routing": _routing(config, source),
            "corrected": config["model_type"] == "deepseek_v3",
        }


def _routing(config: Mapping[str, Any], source: str) -> Routing:
    """How a `config.json` has experts chosen."""
    is_third = config["model_type"] == "deepseek_v3"
    in_groups = is_third or config.get("topk_method") == "group_limited_greedy"
    return Routing(
        require_size(config, "num_experts_per_tok", source),
        normalized=is_third and config.get("norm_topk_prob", True),
        sigmoid=is_third,
        groups=config.get("n_group") or 1 if in_groups else 1,
        chosen_groups=config.get("topk_group") or 1 if in_groups else 1,
        scale=config.get("routed_scaling_factor", 1.0),
    )
