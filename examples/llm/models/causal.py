"""A decoder with a paged key/value cache, for one device: there is no word of parallelism in this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from tvm import relax, te, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode, TIRPagedKVCache
from tvm.target import Target

from examples.llm.config import LlamaConfig

from .parts import Attention, Embedding, GatedMLP, Layer, rms_norm, take
from .step import Sees, Step


class Decoder(nn.Module):
    """Embedding, layers and the last norm: the part that a Hugging Face checkpoint calls `model`."""

    def __init__(self, config: LlamaConfig, layers: list[nn.Module], norm: nn.Module) -> None:
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(layers)
        self.norm = norm


class CausalLM(nn.Module):
    """A decoder and its output head, which is the embedding where the two are tied. Here it is a Llama: others change what they have."""

    Config: ClassVar[type[LlamaConfig]] = LlamaConfig
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    }
    """{part of a layer: the checkpoint's tensors that stand one under another in it}; with {e}, those of each expert in turn."""
    NAMES: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(text in our names, text in the checkpoint's), each replaced in turn."""
    rope_in_cache: ClassVar[bool] = True
    """Whether the cache turns queries and keys."""

    def __init__(self, config: LlamaConfig) -> None:
        self.config = config
        self.model = self.decoder()
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def decoder(self) -> nn.Module:
        """The model under the head."""
        return Decoder(self.config, [self.layer(i) for i in range(self.config.num_hidden_layers)], rms_norm(self.config))

    def layer(self, index: int) -> nn.Module:
        """Layer number `index`."""
        return Layer(self.config, self.attention(index), self.mlp(index))

    def attention(self, index: int) -> nn.Module:
        """What attends in a layer."""
        return Attention(self.config)

    def mlp(self, index: int) -> nn.Module:
        """What follows attention in a layer."""
        return GatedMLP(self.config)

    @staticmethod
    def adjusted(config: LlamaConfig, name: str, array: np.ndarray) -> np.ndarray:
        """A checkpoint's tensor as the weight `name` of this model holds it."""
        return array

    def logits(self, x: Tensor) -> Tensor:
        """(b, s, hidden) -> (b, s, vocab) in float32."""
        tied = self.config.tie_word_embeddings
        x = op.matmul(x, op.permute_dims(self.model.embed_tokens.weight)) if tied else self.lm_head(x)
        return op.astype(x, "float32")

    def embedded(self, x: Tensor, step: Step) -> Tensor:
        """(b, s, hidden): what the first layer gets."""
        return x

    def hidden(self, x: Tensor, cache: PagedKVCache, sees: Sees = Sees.BOTH) -> tuple[Tensor, PagedKVCache]:
        """(b, s, hidden) of embedded tokens -> what the head gets, and the cache with the tokens in it."""
        step = Step(cache, *x.shape[:2], sees)
        x = self.embedded(x, step)
        for index, layer in enumerate(self.model.layers):
            x = layer(x, step, index)
        return self.model.norm(x), step.cache

    def embed(self, input_ids: Tensor) -> Tensor:
        """(seq_len,) int32 -> (seq_len, hidden)."""
        return self.model.embed_tokens(input_ids)

    def prefill(self, input_embed: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(1, seq_len, hidden): one sequence's next piece; logits (1, 1, vocab) of its last token."""
        x, cache = self.hidden(input_embed, cache, Sees.BEGUN)
        return self.logits(last_token(x)), cache

    def decode(self, input_embed: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(1, 1, hidden): one more token of one sequence; logits (1, 1, vocab)."""
        x, cache = self.hidden(input_embed, cache, Sees.LAST)
        return self.logits(x), cache

    def batch_prefill(self, input_embeds: Tensor, logit_positions: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(1, seq_len, hidden): pieces of several sequences; logits (1, batch_size, vocab) at `logit_positions`."""
        x, cache = self.hidden(input_embeds, cache, Sees.BEGUN)
        return self.logits(take(x, logit_positions, 1)), cache

    def batch_decode(self, input_embeds: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(batch_size, 1, hidden): one more token of each sequence; logits (batch_size, 1, vocab)."""
        x, cache = self.hidden(input_embeds, cache, Sees.LAST)
        return self.logits(x), cache

    def batch_verify(self, input_embeds: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """(1, verify_len, hidden): pieces of several sequences; logits (1, verify_len, vocab) after every token."""
        x, cache = self.hidden(input_embeds, cache)
        return self.logits(x), cache

    def create_paged_kv_cache(
        self,
        max_batch_size: tirx.Var,
        max_total_seq_len: tirx.Var,
        prefill_chunk_size: tirx.Var,
        page_size: tirx.Var,
        support_sliding_window: tirx.Var,
    ) -> PagedKVCache:
        """An empty cache; the five sizes come as shape tuples of one element."""
        config, windows = self.config, self.config.layer_windows
        layers = config.num_hidden_layers
        kinds: Any = ["mha_sliding" if window else "mha" for window in windows] if any(windows) else "mha"
        if all(windows):  # TVM's cache wants a layer that sees all: one more, which nobody uses
            layers, kinds = layers + 1, [*kinds, "mha"]
        return TIRPagedKVCache(
            attn_kind=kinds,
            max_batch_size=max_batch_size,
            max_total_seq_len=max_total_seq_len,
            prefill_chunk_size=prefill_chunk_size,
            page_size=page_size,
            support_sliding_window=support_sliding_window,
            layer_partition=relax.ShapeExpr([0, layers]),
            num_hidden_layers=layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            qk_head_dim=config.head_dim,
            v_head_dim=config.head_dim,
            mla_original_qk_head_dim=0,
            mla_original_v_head_dim=0,
            rope_mode=RopeMode.NORMAL if self.rope_in_cache else RopeMode.NONE,
            rope_scale=1,
            rope_theta=config.rope_theta,  # type: ignore[arg-type]
            rope_scaling=dict(config.rope_scaling) if self.rope_in_cache else {},
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=config.rotary_dim or config.head_dim,
            enable_disaggregation=False,
            dtype=config.dtype,
            target=Target.current(),
            layer_sliding_window_size=max(windows) or 1024,
        )


def last_token(x: Tensor) -> Tensor:
    """(b, s, d) -> (b, 1, d), the last of s."""

    def last(t: te.Tensor) -> te.Tensor:
        b, s, d = t.shape  # t's own sizes: those of x are other variables once emitted
        return te.compute((b, 1, d), lambda i, _, k: t[i, s - 1, k], name="last_token")

    return op.tensor_expr_op(last, "last_token", [x])
