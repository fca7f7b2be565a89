"""What decoders are made of: there is no word of parallelism in this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from examples.llm.config import LlamaConfig

from .step import Step


class Embedding(nn.Embedding):
    """A table of vectors, read with clipped indices: nn.Embedding's own "fast" mode reads past its end."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) int32 -> (..., hidden)."""
        flat = op.reshape(x, (-1,)) if x.ndim > 1 else x
        rows = take(self.weight, flat, 0)
        return op.reshape(rows, (*x.shape, self.dim)) if x.ndim > 1 else rows


def take(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Slices of x along `axis` at `indices`, clipped into range."""
    return emit(relax.op.take(x._expr, indices._expr, axis=axis, mode="clip"), "take")


def emit(call: relax.Expr, name: str) -> Tensor:
    """The result of an operator of Relax that `nn.op` has not."""
    return Tensor(_expr=relax.BlockBuilder.current().emit(call, name))


def rms_norm(config: LlamaConfig, size: int = 0, epsilon: float = 0.0) -> nn.RMSNorm:
    """An RMSNorm over the last dimension: the hidden one and the configuration's epsilon, unless others are given."""
    return nn.RMSNorm(size or config.hidden_size, -1, epsilon or config.rms_norm_eps, bias=False)


def layer_norm(config: LlamaConfig) -> nn.LayerNorm:
    """A layer norm with a bias over the hidden dimension, whose epsilon the configuration has as that of its norms."""
    return nn.LayerNorm(config.hidden_size, config.rms_norm_eps)


def split_heads(qkv: Tensor, config: LlamaConfig) -> list[Tensor]:
    """(b, s, heads + 2 * kv heads, d) -> queries, keys and values, each (b, s, its heads, d)."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return op.split(qkv, [heads, heads + kv_heads], axis=2)


class Attention(nn.Module):
    """Grouped-query attention; rotary embeddings and the cache are inside the cache object. x: (b, s, hidden)."""

    def __init__(self, config: LlamaConfig, qkv_bias: bool = False, bias: bool = False) -> None:
        self.config, self.scale = config, config.head_dim**-0.5
        self.qkv_proj = nn.Linear(config.hidden_size, sum(config.qkv_sizes), bias=qkv_bias)
        self.o_proj = nn.Linear(config.qkv_sizes[0], config.hidden_size, bias=bias)

    def forward(self, x: Tensor, step: Step, layer: int) -> Tensor:
        b, s, _ = x.shape
        heads, kv_heads, d = self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim
        qkv = self.prepared(op.reshape(self.projected(x), (b, s, heads + 2 * kv_heads, d)), step, layer)
        out = step.cache.attention_with_fused_qkv(layer, qkv, heads, sm_scale=self.scale)
        return self.o_proj(op.reshape(out, (b, s, heads * d)))

    def projected(self, x: Tensor) -> Tensor:
        """(b, s, hidden) -> (b, s, (heads + 2 * kv heads) * d): queries, keys and values side by side."""
        return self.qkv_proj(x)

    def prepared(self, qkv: Tensor, step: Step, layer: int) -> Tensor:
        """What a model does to queries, keys and values, (b, s, heads + 2 * kv heads, d), before they meet."""
        return qkv


class NormedAttention(Attention):
    """Attention whose queries and keys are normalized, each head for itself."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.q_norm, self.k_norm = rms_norm(config, config.head_dim), rms_norm(config, config.head_dim)

    def prepared(self, qkv: Tensor, step: Step, layer: int) -> Tensor:
        q, k, v = split_heads(qkv, self.config)
        return op.concat([self.q_norm(q), self.k_norm(k), v], dim=2)


def gelu_new(x: Tensor) -> Tensor:
    """The approximation of gelu by tanh."""
    return op.gelu(x, approximate="tanh")


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), gate and up in one weight. x: (b, s, hidden)."""

    def __init__(self, config: LlamaConfig, size: int = 0, activation: Callable[[Tensor], Tensor] = op.silu) -> None:
        self.activation = activation
        size = size or config.intermediate_size
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * size, bias=False)
        self.down_proj = nn.Linear(size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = op.split(self.gate_up_proj(x), 2, axis=-1)
        return self.down_proj(self.activation(gate) * up)


class PlainMLP(nn.Module):
    """down(activation(up(x))) with biases. x: (b, s, hidden)."""

    def __init__(self, config: LlamaConfig, activation: Callable[[Tensor], Tensor]) -> None:
        self.activation = activation
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.up_proj(x)))


class Layer(nn.Module):
    """One pre-norm transformer layer; what attends is given, so that the cache-free model can use its own."""

    def __init__(
        self, config: LlamaConfig, attention: nn.Module, mlp: nn.Module, norm: Callable[[LlamaConfig], nn.Module] = rms_norm
    ) -> None:
        self.input_layernorm = norm(config)
        self.self_attn = attention
        self.post_attention_layernorm = norm(config)
        self.mlp = mlp

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *context)
        return x + self.mlp(self.post_attention_layernorm(x))
