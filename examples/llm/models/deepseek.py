"""DeepSeek V2 and V3: keys and values of all heads come from one latent vector (MLA), and experts are chosen in groups."""

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
from .experts import BEST, MixtureOfExperts, Routing
from .parts import GatedMLP, rms_norm
from .rope import plain_frequencies, rotate, yarn_frequencies
from .step import Step

LATENT_EPSILON = 1e-6
"""Of the norms of latent vectors, whatever `rms_norm_eps` is."""


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


class LatentAttention(nn.Module):
    """Queries, keys and values made from latent vectors; the part of a key that turns is one for all heads. x: (b, s, hidden)."""

    def __init__(self, config: DeepSeekConfig) -> None:
        self.config, heads = config, config.num_attention_heads
        self.scale = config.head_dim**-0.5 * config.magnitudes[0]
        if config.q_rank:
            self.q_a_proj = nn.Linear(config.hidden_size, config.q_rank, bias=False)
            self.q_a_layernorm = rms_norm(config, config.q_rank, LATENT_EPSILON)
            self.q_b_proj = nn.Linear(config.q_rank, heads * config.head_dim, bias=False)
        else:
            self.q_proj = nn.Linear(config.hidden_size, heads * config.head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(config.hidden_size, config.kv_rank + config.rope_dim, bias=False)
        self.kv_a_layernorm = rms_norm(config, config.kv_rank, LATENT_EPSILON)
        self.kv_b_proj = nn.Linear(config.kv_rank, heads * (config.nope_dim + config.v_dim), bias=False)
        self.o_proj = nn.Linear(heads * config.v_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, step: Step, layer: int) -> Tensor:
        config, (b, s, _) = self.config, x.shape
        heads, d = config.num_attention_heads, config.head_dim
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if config.q_rank else self.q_proj(x)
        q, q_turning = op.split(op.reshape(q, (b, s, heads, d)), [config.nope_dim], axis=-1)
        latent, k_turning = op.split(self.kv_a_proj_with_mqa(x), [config.kv_rank], axis=-1)
        kv = op.reshape(self.kv_b_proj(self.kv_a_layernorm(latent)), (b, s, heads, config.nope_dim + config.v_dim))
        k, v = op.split(kv, [config.nope_dim], axis=-1)
        cos, sin = step.angles(config.frequencies)
        cos, sin = cos * config.magnitudes[1], sin * config.magnitudes[1]
        k_turning = rotate(op.reshape(k_turning, (b, s, 1, config.rope_dim)), cos, sin)
        q = op.concat([q, rotate(q_turning, cos, sin)], dim=-1)
        k = op.concat([k, op.broadcast_to(k_turning, (b, s, heads, config.rope_dim))], dim=-1)
        v = op.pad(v, [0, 0, 0, 0, 0, 0, 0, d - config.v_dim])  # the cache has one size for keys and values
        out = step.cache.attention_with_fused_qkv(layer, op.concat([q, k, v], dim=2), heads, sm_scale=self.scale)
        out, _ = op.split(out, [config.v_dim], axis=-1)
        return self.o_proj(op.reshape(out, (b, s, heads * config.v_dim)))


class DeepSeekMoE(MixtureOfExperts):
    """Experts, some of whom answer a token, and an MLP for all tokens."""

    def __init__(self, config: DeepSeekConfig) -> None:
        super().__init__(config, config.num_experts, config.moe_intermediate_size, config.routing)
        if config.corrected:
            self.gate.e_score_correction_bias = nn.Parameter((config.num_experts,))
        if config.shared_experts:
            self.shared_experts = GatedMLP(config, config.shared_experts * config.moe_intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out + self.shared_experts(x) if hasattr(self, "shared_experts") else out

    def counts(self, x: Tensor) -> Tensor:
        return self.routing(op.astype(self.gate(x), "float32"), getattr(self.gate, "e_score_correction_bias", None))


class DeepSeek(CausalLM):
    """The model of DeepSeek V2 and V3."""

    Config = DeepSeekConfig
    config: DeepSeekConfig
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **CausalLM.PARTS,
        **MixtureOfExperts.PARTS,
        "mlp.shared_experts.gate_up_proj": ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
    }
    rope_in_cache = False

    def attention(self, index: int) -> nn.Module:
        return LatentAttention(self.config)

    def mlp(self, index: int) -> nn.Module:
        return GatedMLP(self.config) if index < self.config.dense_layers else DeepSeekMoE(self.config)

    @staticmethod
    def adjusted(config: DeepSeekConfig, name: str, array: np.ndarray) -> np.ndarray:
        """The checkpoint turns neighbours (2i, 2i + 1): rows are reordered so that (i, i + d / 2) turn."""
        if "kv_a_proj_with_mqa" in name:
            return np.concatenate([array[: config.kv_rank], _halves(array[config.kv_rank :])])
        if ".q_proj." in name or ".q_b_proj." in name:
            heads = array.reshape(config.num_attention_heads, config.head_dim, -1)
            turned = [_halves(head[config.nope_dim :]) for head in heads]
            return np.concatenate([heads[:, : config.nope_dim], np.stack(turned)], axis=1).reshape(array.shape)
        return array


def _halves(rows: np.ndarray) -> np.ndarray:
    """Even rows before odd ones."""
    return np.concatenate([rows[::2], rows[1::2]])
