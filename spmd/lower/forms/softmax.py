"""Softmax over a split dimension: the maximum and the sum are small, and are all that is reduced."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .context import FormContext, form
from .statistics import like, widened


@form("softmax")
def softmax(f: FormContext) -> Any:
    """exp(x - max) / sum(exp(x - max)), or its logarithm."""
    emit, dim = f.emit, f.dim_of(0)
    x = widened(f, f.masked(f.args[0], dim, float("-inf")))
    largest = f.all_reduce(emit(relax.op.max(x, [dim], keepdims=True)), "max")
    shifted = emit(relax.op.subtract(x, largest))
    powers = emit(relax.op.exp(shifted))
    total = f.all_reduce(emit(relax.op.sum(powers, [dim], keepdims=True)), "sum")
    if f.node.op == "relax.nn.log_softmax":
        return like(f, emit(relax.op.subtract(shifted, emit(relax.op.log(total)))), f.args[0])
    return like(f, emit(relax.op.divide(powers, total)), f.args[0])
