"""Matrix products."""

from __future__ import annotations

from spmd.rules.model import Rule
from spmd.rules.registry import OpCall, rule

from .linearity import linear_product


@rule("relax.matmul")
def matmul(op: OpCall) -> Rule:
    """NumPy's matmul: leading dimensions broadcast, vectors have no row or no column."""
    left = "k" if len(op.inputs[0]) == 1 else "...m k"
    right = "k" if len(op.inputs[1]) == 1 else "...k n"
    out = ("...m" if left != "k" else "...") + (" n" if right != "k" else "")
    return op.bind(f"{left}, {right} -> {out}", zero="any", linear=linear_product(op, (0,), (1,)))
