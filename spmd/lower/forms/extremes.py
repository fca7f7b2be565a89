"""The largest and the smallest over a split dimension, where there may be NaN among what is compared.

TVM compares from the first element to the last, and whatever is compared with NaN wins: what comes before the last NaN does not count,
and NaN itself is the result only where it is the last element of all. So workers tell each other first where the last NaN stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import relax

from spmd.placement.dtypes import finite_ends

from .context import FormContext, form


@dataclass(frozen=True)
class Compared:
    """What a worker compares: of its shard, what comes after the last NaN of all."""

    x: Any
    """The shard; padding, and what does not count, is the worst number there is."""
    last: Any = None
    """[reduced shape] int64: the place of the last NaN in the order of comparing, -1 where there is none. None for integers."""
    end: int = 0
    """The last place of all."""


def compared(f: FormContext, axes: Sequence[int], *, largest: bool, keepdims: bool) -> Compared:
    """The shard of the first input as it is to be compared over `axes`."""
    worst = float("-inf") if largest else float("inf")
    x = f.masked(f.args[0], f.dim_of(0), worst)
    dtype = str(x.ty.dtype)
    if "float" not in dtype:
        return Compared(x)
    emit, places = f.emit, _order(f, axes)
    wide = x if dtype in ("float32", "float64") else emit(relax.op.astype(x, "float32"))
    found = emit(relax.op.where(emit(relax.op.isnan(wide)), places, f.scalar(-1, "int64")))
    last = f.all_reduce(emit(relax.op.max(found, list(axes), keepdims=keepdims)), "max")
    shape = [1 if d in axes else n for d, n in enumerate(x.ty.shape.values)]
    over = last if keepdims else emit(relax.op.reshape(last, shape))
    counts = emit(relax.op.greater(places, over))
    end = prod(f.node.inputs[0].shape[a] or 0 for a in axes) - 1
    return Compared(emit(relax.op.where(counts, x, f.scalar(worst, dtype))), last, end)


def _order(f: FormContext, axes: Sequence[int]) -> Any:
    """The place of each element in the order of comparing, row by row: int64, of size 1 in dimensions that are not compared."""
    rank, shape = f.args[0].ty.ndim, f.node.inputs[0].shape
    places, after = None, 1
    for axis in sorted(axes, reverse=True):
        size = shape[axis] or 0
        if axis == f.dim_of(0):
            here = f.along(f.positions(), rank, axis)
        else:
            here = relax.const(np.arange(size).reshape([-1 if d == axis else 1 for d in range(rank)]), "int64")
        here = here if after == 1 else f.emit(relax.op.multiply(here, f.scalar(after, "int64")))
        places, after = here if places is None else f.emit(relax.op.add(places, here)), after * size
    return places


@form("extreme")
def extreme(f: FormContext) -> Any:
    """A partial maximum, or minimum."""
    largest, keepdims = f.node.op == "relax.max", bool(f.call.attrs.keepdims)
    rank = f.args[0].ty.ndim
    axes = list(range(rank)) if f.call.attrs.axis is None else sorted({int(a) % rank for a in f.call.attrs.axis})
    given = compared(f, axes, largest=largest, keepdims=keepdims)
    value = f.emit((relax.op.max if largest else relax.op.min)(given.x, axes, keepdims))
    if given.last is None:
        return value
    # A reduction starts from the lowest finite number, but not again after a NaN.
    dtype = str(value.ty.dtype)
    start = f.emit(relax.op.equal(value, f.scalar(float(finite_ends(dtype)[not largest]), dtype)))
    restarted = f.emit(relax.op.logical_and(start, f.emit(relax.op.greater_equal(given.last, f.scalar(0, "int64")))))
    value = f.emit(relax.op.where(restarted, f.scalar(float("-inf") if largest else float("inf"), dtype), value))
    nothing_follows = f.emit(relax.op.equal(given.last, f.scalar(given.end, "int64")))
    return f.emit(relax.op.where(nothing_follows, f.scalar(float("nan"), dtype), value))
