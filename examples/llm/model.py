"""Llama with a paged key/value cache, for one device: there is no word of parallelism in this file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax, te, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode, TIRPagedKVCache
from tvm.target import Target

from .config import LlamaConfig
from .errors import ModelError


class Attention(nn.Module):
    """Grouped-query attention; rotary embeddings and the cache are inside the cache object. x: (b, s, hidden)."""

    def __init__(self, config: LlamaConfig):
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.qkv_proj = nn.Linear(config.hidden_size, sum(config.qkv_sizes), bias=False)
        self.o_proj = nn.Linear(config.qkv_sizes[0], config.hidden_size, bias=False)

    def forward(self, x: Tensor, cache: PagedKVCache, layer: int) -> Tensor:
        b, s, _ = x.shape
        qkv = op.reshape(self.qkv_proj(x), (b, s, self.heads + 2 * self.kv_heads, self.head_dim))
        out = cache.attention_with_fused_qkv(layer, qkv, self.heads, sm_scale=self.head_dim**-0.5)
        return self.o_proj(op.reshape(out, (b, s, self.heads * self.head_dim)))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one weight. x: (b, s, hidden)."""

    def __init__(self, config: LlamaConfig):
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = op.split(self.gate_up_proj(x), 2, axis=-1)
        return self.down_proj(op.silu(gate) * up)


class Layer(nn.Module):
    """One pre-norm transformer layer; what attends is given, so that the cache-free model can use its own."""

    def __init__(self, config: LlamaConfig, attention: nn.Module):
        self.input_layernorm = nn.RMSNorm(config.hidden_size, -1, config.rms_norm_eps, bias=False)
        self.self_attn = attention
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, -1, config.rms_norm_eps, bias=False)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *context)
        return x + self.mlp(self.post_attention_layernorm(x))


class Embedding(nn.Embedding):
    """A table of vectors, read with clipped indices: nn.Embedding's own "fast" mode reads past its end."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) int32 -> (..., hidden)."""
        flat = op.reshape(x, (-1,)) if x.ndim > 1 else x
        rows = take(self.weight, flat, 0)
        return op.reshape(rows, (*x.shape, self.dim)) if x.ndim > 1 else rows


def take(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Slices of x along `axis` at `indices`, clipped into range."""
    call = relax.op.take(x._expr, indices._expr, axis=axis, mode="clip")
    return Tensor(_expr=relax.BlockBuilder.current().emit(call, "take"))


class Decoder(nn.Module):
    """Embedding, layers and the last norm: the part that a Hugging Face checkpoint calls `model`."""

    def __init__(self, config: LlamaConfig, attention: type[nn.Module] = Attention):
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config, attention(config)) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, -1, config.rms_norm_eps, bias=False)


class LlamaBase(nn.Module):
    """The decoder and the output head, which is the embedding where the two are tied."""

    def __init__(self, config: LlamaConfig, attention: type[nn.Module] = Attention):
        self.config = config
        self.model = Decoder(config, attention)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        """(b, s, hidden) -> (b, s, vocab) in float32."""
        tied = self.config.tie_word_embeddings
        x = op.matmul(x, op.permute_dims(self.model.embed_tokens.weight)) if tied else self.lm_head(x)
        return op.astype(x, "float32")


class Llama(LlamaBase):
    """The model with a cache. Each method returns (logits in float32, cache)."""

    def __init__(self, config: LlamaConfig, target: Target):
        super().__init__(config)
        self.target = target

    def _hidden(self, x: Tensor, cache: PagedKVCache) -> Tensor:
        for index, layer in enumerate(self.model.layers):
            x = layer(x, cache, index)
        return self.model.norm(x)

    def embed(self, input_ids: Tensor) -> Tensor:
        """(seq_len,) int32 -> (seq_len, hidden)."""
        return self.model.embed_tokens(input_ids)

    def prefill(self, input_embed: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(1, seq_len, hidden): one sequence's next piece; logits (1, 1, vocab) of its last token."""
        return self.logits(_last_token(self._hidden(input_embed, cache))), cache

    def decode(self, input_embed: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(1, 1, hidden): one more token of one sequence; logits (1, 1, vocab)."""
        return self.logits(self._hidden(input_embed, cache)), cache

    def batch_prefill(self, input_embeds: Tensor, logit_positions: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(1, seq_len, hidden): pieces of several sequences; logits (1, batch_size, vocab) at `logit_positions`."""
        return self.logits(take(self._hidden(input_embeds, cache), logit_positions, 1)), cache

    def batch_decode(self, input_embeds: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(batch_size, 1, hidden): one more token of each sequence; logits (batch_size, 1, vocab)."""
        return self.logits(self._hidden(input_embeds, cache)), cache

    def create_paged_kv_cache(
        self,
        max_batch_size: tirx.Var,
        max_total_seq_len: tirx.Var,
        prefill_chunk_size: tirx.Var,
        page_size: tirx.Var,
        support_sliding_window: tirx.Var,
    ) -> PagedKVCache:
        """An empty cache; the five sizes come as shape tuples of one element."""
        config = self.config
        return TIRPagedKVCache(
            attn_kind="mha",
            max_batch_size=max_batch_size,
            max_total_seq_len=max_total_seq_len,
            prefill_chunk_size=prefill_chunk_size,
            page_size=page_size,
            support_sliding_window=support_sliding_window,
            layer_partition=relax.ShapeExpr([0, config.num_hidden_layers]),
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            qk_head_dim=config.head_dim,
            v_head_dim=config.head_dim,
            mla_original_qk_head_dim=0,
            mla_original_v_head_dim=0,
            rope_mode=RopeMode.NORMAL,
            rope_scale=1,
            rope_theta=config.rope_theta,  # type: ignore[arg-type]
            rope_scaling=dict(config.rope_scaling),
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=config.head_dim,
            enable_disaggregation=False,
            dtype=config.dtype,
            target=self.target,
        )


def _last_token(x: Tensor) -> Tensor:
    """(b, s, d) -> (b, 1, d), the last of s."""

    def last(t: te.Tensor) -> te.Tensor:
        b, s, d = t.shape  # t's own sizes: those of x are other variables once emitted
        return te.compute((b, 1, d), lambda i, _, k: t[i, s - 1, k], name="last_token")

    return op.tensor_expr_op(last, "last_token", [x])


METHODS = ("embed", "prefill", "decode", "batch_prefill", "batch_decode", "create_paged_kv_cache")


def build_module(
    config: LlamaConfig,
    target: str | Target = "llvm",
    methods: Sequence[str] = METHODS,
    param_mode: str = "plain",
    quantized: Callable[[nn.Linear], nn.Module] | None = None,
) -> tuple[tvm.IRModule, dict[str, tuple[tuple[int, ...], str]]]:
    """The module, and its weights in parameter order: {name: (shape, dtype)}. No weight is loaded or allocated.

    Weights follow the inputs in every function but create_paged_kv_cache, as variables (`param_mode="plain"`) or as one
    tuple ("packed"); the attribute `num_input` counts the inputs. `quantized` makes what stands in the place of each linear layer.
    Raises ModelError for an unknown method.
    """
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise ModelError("methods", f"there is no {', '.join(sorted(unknown))}", f"Use some of: {', '.join(METHODS)}.")
    hidden, dtype = config.hidden_size, config.dtype
    mode = {"param_mode": param_mode, "effect_mode": "none"}
    cache = nn.spec.Object(object_type=PagedKVCache)
    specs: dict[str, dict[str, Any]] = {
        "embed": {"input_ids": nn.spec.Tensor(["seq_len"], "int32"), "$": mode},
        "prefill": {"input_embed": nn.spec.Tensor([1, "seq_len", hidden], dtype), "cache": cache, "$": mode},
        "decode": {"input_embed": nn.spec.Tensor([1, 1, hidden], dtype), "cache": cache, "$": mode},
        "batch_prefill": {
            "input_embeds": nn.spec.Tensor([1, "seq_len", hidden], dtype),
            "logit_positions": nn.spec.Tensor(["batch_size"], "int32"),
            "cache": cache,
            "$": mode,
        },
        "batch_decode": {"input_embeds": nn.spec.Tensor(["batch_size", 1, hidden], dtype), "cache": cache, "$": mode},
        "create_paged_kv_cache": {
            "max_batch_size": int,
            "max_total_seq_len": int,
            "prefill_chunk_size": int,
            "page_size": int,
            "support_sliding_window": int,
            "$": {"param_mode": "none", "effect_mode": "none"},
        },
    }
    model = Llama(config, Target(target) if isinstance(target, str) else target)
    model.to(dtype)
    if quantized is not None:
        _replace_linear(model, quantized)
    mod, params = model.export_tvm({name: specs[name] for name in METHODS if name in methods})
    return mod, weight_shapes(params)


def _replace_linear(module: nn.Module, quantized: Callable[[nn.Linear], nn.Module]) -> None:
    """Put what `quantized` makes of them into the place of all linear layers."""
    for name, part in list(vars(module).items()):
        if isinstance(part, nn.Linear):
            setattr(module, name, quantized(part))
        for inner in part if isinstance(part, nn.ModuleList) else [part]:
            if isinstance(inner, nn.Module):
                _replace_linear(inner, quantized)


def weight_shapes(params: list[tuple[str, nn.Parameter]]) -> dict[str, tuple[tuple[int, ...], str]]:
    """{name: (shape, dtype)} of the parameters that an export returns."""
    return {name: (tuple(int(size) for size in param.shape), str(param.dtype)) for name, param in params}
