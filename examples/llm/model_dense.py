"""The same Llama without a cache: causal attention and rotary embeddings in ordinary Relax ops."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from .config import LlamaConfig
from .model import weight_shapes
from .models.causal import CausalLM
from .models.rope import angles, rotary_frequencies, rotate

FORBIDDEN = -1e30
"""Added to a score that must not count; infinity itself does not legalize in a `full`."""


class DenseAttention(nn.Module):
    """Causal grouped-query attention of a whole sequence. x: (b, s, hidden)."""

    def __init__(self, config: LlamaConfig):
        self.config = config
        self.qkv_proj = nn.Linear(config.hidden_size, sum(config.qkv_sizes), bias=False)
        self.o_proj = nn.Linear(config.qkv_sizes[0], config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """`cos`, `sin`: (s, head_dim); `mask`: (s, s), 0 where a row may look and FORBIDDEN elsewhere; all float32."""
        b, s, _ = x.shape
        heads, kv_heads, d = self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim
        q_size, kv_size, _ = self.config.qkv_sizes
        q, k, v = op.split(self.qkv_proj(x), [q_size, q_size + kv_size], axis=-1)
        q = rotate(_split_heads(q, heads, d), cos, sin)
        k = op.repeat(rotate(_split_heads(k, kv_heads, d), cos, sin), heads // kv_heads, axis=1)
        v = op.repeat(_split_heads(v, kv_heads, d), heads // kv_heads, axis=1)
        scores = op.astype(op.matmul(q, op.permute_dims(k, [0, 1, 3, 2])), "float32") * (d**-0.5) + mask
        out = op.matmul(op.astype(op.softmax(scores, axis=-1), x.dtype), v)
        return self.o_proj(op.reshape(op.permute_dims(out, [0, 2, 1, 3]), (b, s, heads * d)))


class DenseLlama(CausalLM):
    """forward(input_ids) -> logits of every position."""

    def attention(self, index: int) -> nn.Module:
        return DenseAttention(self.config)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(batch_size, seq_len) int32 -> (batch_size, seq_len, vocab) in float32."""
        s = input_ids.shape[1]
        cos, sin = rotary_tables(self.config, s)
        mask = op.triu(op.full((s, s), nn.Tensor.from_scalar(FORBIDDEN, "float32"), "float32"), diagonal=1)
        x = self.model.embed_tokens(input_ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.logits(self.model.norm(x))


def _split_heads(x: Tensor, heads: int, head_dim: int) -> Tensor:
    """(b, s, heads * d) -> (b, heads, s, d)."""
    b, s, _ = x.shape
    return op.permute_dims(op.reshape(x, (b, s, heads, head_dim)), [0, 2, 1, 3])


def rotary_tables(config: LlamaConfig, length: relax.Expr | int) -> tuple[Tensor, Tensor]:
    """Cos and sin of position * frequency, each (length, head_dim) in float32, the two halves alike."""
    frequencies = nn.Tensor.from_const(rotary_frequencies(config).astype("float32"))
    positions = op.reshape(op.arange(0, length, dtype="float32"), (length, 1))
    return angles(positions, op.reshape(frequencies, (1, config.head_dim // 2)))


def build_dense_module(config: LlamaConfig, param_mode: str = "plain") -> tuple[tvm.IRModule, dict[str, tuple[tuple[int, ...], str]]]:
    """The module with `forward`, and its weights in parameter order: {name: (shape, dtype)}, named as in model.py."""
    model = DenseLlama(config)
    model.to(config.dtype)
    mode = {"param_mode": param_mode, "effect_mode": "none"}
    spec = {"forward": {"input_ids": nn.spec.Tensor(["batch_size", "seq_len"], "int32"), "$": mode}}
    mod, params = model.export_tvm(spec)
    return mod, weight_shapes(params)
