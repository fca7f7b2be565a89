"""Mixtures of experts in ordinary operators: who answers is decided by ranks, without a sort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tvm import relax, te
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op

from examples.llm.config import LlamaConfig

from .parts import emit


@dataclass(frozen=True)
class Routing:
    """Which experts answer a token, and how much each counts."""

    chosen: int
    """Experts a token."""
    normalized: bool = False
    """Whether what the chosen ones count is made to sum to one."""
    sigmoid: bool = False
    """Whether the score of an expert is a sigmoid of its own, with a bias when it is compared; else all are one softmax."""
    groups: int = 1
    chosen_groups: int = 1
    """Experts are chosen from so many of the groups, those whose best (by sigmoid: whose two best together) are highest."""
    scale: float = 1.0

    def __call__(self, logits: Tensor, bias: Tensor | None = None) -> Tensor:
        """(tokens, experts) float32 -> what each expert counts, 0 for those that do not answer."""
        tokens, experts = logits.shape
        scores = op.sigmoid(logits) if self.sigmoid else op.softmax(logits, axis=-1)
        compared = scores if bias is None else scores + op.astype(bias, "float32")
        if self.chosen_groups < self.groups:
            grouped = op.reshape(compared, (tokens, self.groups, experts // self.groups))
            best = where_first(grouped, 2 if self.sigmoid else 1)
            chosen = first(op.sum(best, axis=-1), self.chosen_groups)
            # scores are not negative, those with a bias may be: both are far above this
            compared = where(op.reshape(chosen, (tokens, self.groups, 1)), grouped, -1e30)
            compared = op.reshape(compared, (tokens, experts))
        counts = where(first(compared, self.chosen), scores, 0.0)
        if self.normalized:
            counts = counts / (op.sum(counts, axis=-1, keepdims=True) + 1e-20)
        return counts * self.scale if self.scale != 1.0 else counts


BEST = Routing(1)
"""The best expert alone."""


def first(x: Tensor, count: int) -> Tensor:
    """Which elements of the last dimension are among the `count` largest; of equal ones those that stand before."""
    return emit(relax.op.less(ranks(x)._expr, relax.const(count, "int32")), "first")


def ranks(x: Tensor) -> Tensor:
    """int32: how many elements of the last dimension stand before each one when the largest comes first."""

    def rank(t: te.Tensor) -> te.Tensor:
        size = t.shape[-1]
        k = te.reduce_axis((0, size), "k")

        def before(*i: te.Var) -> te.Expr:
            other, own = t[(*i[:-1], k)], t[i]
            return te.sum(te.any(other > own, te.all(other == own, k < i[-1])).astype("int32"), axis=k)

        return te.compute(t.shape, before, name="rank")

    return op.tensor_expr_op(rank, "rank", [x])


def where(condition: Tensor, x: Tensor, other: float) -> Tensor:
    """X where the condition holds, and the number elsewhere."""
    return emit(relax.op.where(condition._expr, x._expr, relax.const(other, x.dtype)), "where")


def where_first(x: Tensor, count: int) -> Tensor:
    """The `count` largest elements of the last dimension in their places, 0 elsewhere."""
    return where(first(x, count), x, 0.0)


class Stacked(nn.Module):
    """One weight for all experts, (experts, outputs, inputs)."""

    def __init__(self, *shape: int) -> None:
        self.weight = nn.Parameter(shape)


class Experts(nn.Module):
    """Gated MLPs side by side. All rows meet all experts in one product, and each counts as the routing says."""

    def __init__(self, config: LlamaConfig, experts: int, size: int) -> None:
        self.gate_up_proj = Stacked(experts, 2 * size, config.hidden_size)
        self.down_proj = Stacked(experts, config.hidden_size, size)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """X (tokens, hidden), counts (tokens, experts) float32 -> (tokens, hidden)."""
        gate, up = op.split(op.matmul(x, op.permute_dims(self.gate_up_proj.weight, [0, 2, 1])), 2, axis=-1)
        out = op.matmul(op.silu(gate) * up, op.permute_dims(self.down_proj.weight, [0, 2, 1]))
        share = op.reshape(op.permute_dims(counts), (counts.shape[1], counts.shape[0], 1))
        # of an expert that does not answer nothing counts, not even what is too large for its type
        kept = emit(relax.op.greater(share._expr, relax.const(0.0, "float32")), "answers")
        return op.sum(where(kept, out * op.astype(share, x.dtype), 0.0), axis=0)


class MixtureOfExperts(nn.Module):
    """A router and its experts; with `shared`, an MLP of that size to which all tokens go. x: (b, s, hidden)."""

    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "mlp.experts.gate_up_proj": ("mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj"),
        "mlp.experts.down_proj": ("mlp.experts.{e}.down_proj",),
    }

    def __init__(self, config: LlamaConfig, experts: int, size: int, routing: Routing) -> None:
        self.routing = routing
        self.gate = nn.Linear(config.hidden_size, experts, bias=False)
        self.experts = Experts(config, experts, size)

    def forward(self, x: Tensor) -> Tensor:
        b, s, hidden = x.shape
        flat = op.reshape(x, (b * s, hidden))
        return op.reshape(self.experts(flat, self.counts(flat)), (b, s, hidden))

    def counts(self, x: Tensor) -> Tensor:
        """(tokens, hidden) -> (tokens, experts): what each expert counts."""
        return self.routing(op.astype(self.gate(x), "float32"))
