"""DeepSeek V2 and V3: keys and values of all heads come from one latent vector (MLA), and experts are chosen in groups.

The cache holds that vector, and the part of the keys that turns. A query meets it in one of two ways: tokens of the same call have keys
and values of their own; what is in the cache is compared as it is, with the query taken to its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode
from tvm.script import relax as R

from .causal import CausalLM, last_token
from .deepseek_config import DeepSeekConfig
from .experts import MixtureOfExperts, Stacked
from .parts import GatedMLP, rms_norm, take
from .rope import rotate
from .step import Sees, Step

LATENT_EPSILON = 1e-6
"""Of the norms of latent vectors, whatever `rms_norm_eps` is."""


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
        self.k_b_proj = Stacked(heads, config.nope_dim, config.kv_rank)
        self.v_b_proj = Stacked(heads, config.v_dim, config.kv_rank)
        self.o_proj = nn.Linear(heads * config.v_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, step: Step, layer: int) -> Tensor:
        config, (b, s, _) = self.config, x.shape
        heads = config.num_attention_heads
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if config.q_rank else self.q_proj(x)
        q, q_turning = op.split(op.reshape(q, (b, s, heads, config.head_dim)), [config.nope_dim], axis=-1)
        latent, k_turning = op.split(self.kv_a_proj_with_mqa(x), [config.kv_rank], axis=-1)
        latent = self.kv_a_layernorm(latent)
        cos, sin = step.angles(config.frequencies)
        cos, sin = cos * config.magnitudes[1], sin * config.magnitudes[1]
        q_turning = rotate(q_turning, cos, sin)
        k_turning = rotate(op.reshape(k_turning, (b, s, 1, config.rope_dim)), cos, sin)
        kept = op.concat([op.reshape(latent, (b, s, 1, config.kv_rank)), k_turning], dim=-1)
        step.cache = step.cache.append_mla_kv(layer, kept)
        out, sums = self.begun(q, q_turning, latent, k_turning, step, layer) if step.sees != Sees.LAST else (None, None)
        if step.sees != Sees.BEGUN:
            past, past_sums = self.past(q, q_turning, step, layer)
            out = past if out is None else step.cache.merge_attn_output_inplace(out, sums, past, past_sums)[0]
        return self.o_proj(op.reshape(out, (b, s, heads * config.v_dim)))

    def begun(self, q: Tensor, q_turning: Tensor, latent: Tensor, k_turning: Tensor, step: Step, layer: int) -> tuple[Tensor, Tensor]:
        """Attention to the tokens of this call, (b, s, heads, v_dim), and the logarithms of its sums of exponentials, (b, s, heads)."""
        config, (b, s, heads, _) = self.config, q.shape
        k, v = (op.matmul(latent, op.permute_dims(op.reshape(w.weight, (-1, config.kv_rank)))) for w in (self.k_b_proj, self.v_b_proj))
        k, v = op.reshape(k, (b, s, heads, config.nope_dim)), op.reshape(v, (b, s, heads, config.v_dim))
        k = op.concat([k, op.broadcast_to(k_turning, (b, s, heads, config.rope_dim))], dim=-1)
        return step.cache.self_attention(layer, op.concat([q, q_turning], dim=-1), k, v, self.scale)

    def past(self, q: Tensor, q_turning: Tensor, step: Step, layer: int) -> tuple[Tensor, Tensor]:
        """Attention to what the cache holds, as `begun` gives it."""
        config = self.config
        q = op.concat([self.each_head(q, self.k_b_proj.weight), q_turning], dim=-1)
        out, sums = step.cache.cross_attention(layer, q, config.kv_rank, self.scale)
        return self.each_head(out, op.permute_dims(self.v_b_proj.weight, [0, 2, 1])), sums

    def each_head(self, x: Tensor, weight: Tensor) -> Tensor:
        """(b, s, heads, inputs), (heads, inputs, outputs) -> (b, s, heads, outputs)."""
        b, s, heads, size = x.shape
        y = op.matmul(op.permute_dims(op.reshape(x, (b * s, heads, size)), [1, 0, 2]), weight)
        return op.reshape(op.permute_dims(y, [1, 0, 2]), (b, s, heads, weight.shape[2]))


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
        "self_attn.k_b_proj": ("self_attn.kv_b_proj",),
        "self_attn.v_b_proj": ("self_attn.kv_b_proj",),
    }

    def attention(self, index: int) -> nn.Module:
        return LatentAttention(self.config)

    def mlp(self, index: int) -> nn.Module:
        return GatedMLP(self.config) if index < self.config.dense_layers else DeepSeekMoE(self.config)

    def extend(self, input_embed: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """`prefill` of a sequence that is not empty."""
        x, cache = self.hidden(input_embed, cache)
        return self.logits(last_token(x)), cache

    def batch_extend(self, input_embeds: Tensor, logit_positions: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """`batch_prefill` of sequences of which some are not empty."""
        x, cache = self.hidden(input_embeds, cache)
        return self.logits(take(x, logit_positions, 1)), cache

    def create_paged_kv_cache(
        self,
        max_batch_size: tirx.Var,
        max_total_seq_len: tirx.Var,
        prefill_chunk_size: tirx.Var,
        page_size: tirx.Var,
        support_sliding_window: tirx.Var,
    ) -> PagedKVCache:
        config, layers = self.config, self.config.num_hidden_layers
        sizes = [max_batch_size, max_total_seq_len, prefill_chunk_size, page_size, support_sliding_window]
        heads = (config.num_attention_heads, 1, config.kv_rank + config.rope_dim, config.kv_rank)
        numbers = (layers, *heads, config.head_dim, config.v_dim, RopeMode.NONE, 1, 10000)
        call = relax.call_pure_packed(
            "mlc.create_paged_kv_cache_generic",  # kernels come when it is compiled
            tvm.ir.StringImm("mla"),
            relax.ShapeExpr(sizes),
            relax.ShapeExpr([0, layers]),
            *map(relax.prim_value, numbers),
            tvm.ir.StringImm("{}"),
            *map(relax.prim_value, (0, config.kv_rank + config.rope_dim, 0)),
            R.dtype(config.dtype),
            ty_args=relax.AnyType(),
        )
        return PagedKVCache(_expr=call, _name="cache")

    @staticmethod
    def adjusted(config: DeepSeekConfig, name: str, array: np.ndarray) -> np.ndarray:
        """Keys and values apart; and the checkpoint turns neighbours (2i, 2i + 1): rows are reordered so that (i, i + d / 2) turn."""
        if ".k_b_proj." in name or ".v_b_proj." in name:
            heads = array.reshape(config.num_attention_heads, config.nope_dim + config.v_dim, -1)
            return heads[:, : config.nope_dim] if ".k_b_proj." in name else heads[:, config.nope_dim :]
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
