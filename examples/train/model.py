"""A small character model: a transformer of two layers, whose loss is the cross entropy of the next character.

Written of operators that have gradients in TVM; nothing in it knows of workers.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op


class Norm(nn.Module):
    """RMS norm over the last dimension."""

    def __init__(self, width: int) -> None:
        self.weight = nn.Parameter((width,), "float32")

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        mean = _op(relax.op.mean, op.multiply(x, x), axis=-1, keepdims=True)
        return op.multiply(op.divide(x, op.sqrt(mean + 1e-5)), self.weight)


class Layer(nn.Module):
    """Causal attention, then a feed-forward network."""

    def __init__(self, width: int, heads: int) -> None:
        self.heads, self.each = heads, width // heads
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: nn.Tensor, mask: nn.Tensor) -> nn.Tensor:
        batch, length, width = x.shape
        normed = self.norm1(x)

        def by_head(v: nn.Tensor) -> nn.Tensor:
            return op.permute_dims(op.reshape(v, (batch, length, self.heads, self.each)), [0, 2, 1, 3])

        q, k, v = (by_head(project(normed)) for project in (self.q_proj, self.k_proj, self.v_proj))
        scores = op.matmul(q, op.permute_dims(k, [0, 1, 3, 2])) * self.each**-0.5
        mixed = op.permute_dims(op.matmul(op.softmax(op.add(scores, mask)), v), [0, 2, 1, 3])
        x = op.add(x, self.o_proj(op.reshape(mixed, (batch, length, width))))
        return op.add(x, self.down_proj(op.silu(self.up_proj(self.norm2(x)))))


class CharacterModel(nn.Module):
    """`loss(tokens, targets)`: both [batch, length] of int32; the mean cross entropy, a scalar."""

    def __init__(self, vocabulary: int, length: int, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        self.vocabulary, self.length = vocabulary, length
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter((length, width), "float32")
        self.layers = nn.ModuleList([Layer(width, heads) for _ in range(layers)])
        self.norm = Norm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def loss(self, tokens: nn.Tensor, targets: nn.Tensor) -> nn.Tensor:
        batch, length = tokens.shape
        mask = nn.Tensor.from_const(np.triu(np.full((length, length), -1e9, "float32"), 1))
        x = op.add(self.embed(tokens), self.position)
        for layer in self.layers:
            x = layer(x, mask)
        logits = op.reshape(self.lm_head(self.norm(x)), (batch * length, self.vocabulary))
        scores = _op(relax.op.nn.log_softmax, logits)
        return _op(relax.op.nn.nll_loss, scores, op.reshape(targets, (batch * length,)), reduction="mean")

    def export(self, batch: int) -> tvm.IRModule:
        """The module whose function `loss` is of batches of this size."""
        tokens = nn.spec.Tensor([batch, self.length], "int32")
        return self.export_tvm({"loss": {"tokens": tokens, "targets": tokens}})[0]


def _op(function, *args, **attributes) -> nn.Tensor:
    """An operator of Relax that the frontend does not have."""
    given = [arg._expr if isinstance(arg, nn.Tensor) else arg for arg in args]
    return op.wrap_nested(function(*given, **attributes), function.__name__)
