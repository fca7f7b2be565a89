"""The largest elements along a split dimension: each worker's candidates are compared, ties going to the first place, as in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax

from .context import FormContext, form
from .extremes import compared


@form("extreme_index")
def extreme_index(f: FormContext) -> Any:
    """The best value of all, then the first place where a worker has it."""
    emit, attrs, dim = f.emit, f.call.attrs, f.dim_of(0)
    largest = f.node.op == "relax.argmax"
    axes = list(range(f.args[0].ty.ndim)) if attrs.axis is None else [dim]
    given = compared(f, axes, largest=largest, keepdims=bool(attrs.keepdims))
    x = given.x
    here = emit(tvm.ir.Call(f.call.op, [x], attrs))
    value = emit((relax.op.max if largest else relax.op.min)(x, attrs.axis, bool(attrs.keepdims)))
    best = f.all_reduce(value, "max" if largest else "min")
    worse = emit((relax.op.less if largest else relax.op.greater)(value, best))
    never = f.scalar(np.iinfo("int64").max, "int64")
    first = f.all_reduce(emit(relax.op.where(worse, never, _place(f, here, x.ty.shape.values[dim + 1 :]))), "min")
    if given.last is None:
        return first
    # Whatever follows a NaN is better than it, and the NaN itself is the result where nothing follows.
    zero = f.scalar(0, "int64")
    none = emit(relax.op.logical_and(emit(relax.op.less(first, zero)), emit(relax.op.greater_equal(given.last, zero))))
    following = emit(relax.op.minimum(emit(relax.op.add(given.last, f.scalar(1, "int64"))), f.scalar(given.end, "int64")))
    return emit(relax.op.where(none, following, first))


def _place(f: FormContext, here: Any, later: Sequence[Any]) -> Any:
    """The place in the whole tensor that is `here` in the shard; `later` are the sizes after the split dimension.

    Where nothing is better than the worst number, the operator gives -1, and that stays.
    """
    emit, scalar = f.emit, lambda n: f.scalar(n, "int64")
    place, outer, inner, after = here, None, None, 1
    if f.call.attrs.axis is None:  # a place in the flattened shard
        after = prod(int(n) for n in later)
        outer = emit(relax.op.floor_divide(place, scalar(after * f.size)))
        inner = emit(relax.op.floor_mod(place, scalar(after)))
        place = emit(relax.op.floor_mod(emit(relax.op.floor_divide(place, scalar(after))), scalar(f.size)))
    if len(f.split.segments) == 1:
        place = emit(relax.op.add(place, f.start("int64")))
    else:
        place = emit(relax.op.take(f.positions(), emit(relax.op.maximum(place, scalar(0))), axis=0, mode="clip"))
    if outer is not None:
        place = emit(relax.op.add(emit(relax.op.multiply(outer, scalar(f.split.size))), place))
        place = emit(relax.op.add(emit(relax.op.multiply(place, scalar(after))), inner))
    return emit(relax.op.where(emit(relax.op.less(here, scalar(0))), here, place))


@form("topk")
def topk(f: FormContext) -> Any:
    """The first k of all workers' first k; candidates stand in the order of their places, so that ties go as in the whole tensor."""
    emit, attrs, dim = f.emit, f.call.attrs, f.dim_of(0)
    k, wanted, largest = int(attrs.k), str(attrs.ret_type), bool(attrs.largest)
    # Padding comes last of all, and so loses to what is as bad.
    x = f.masked(f.args[0], dim, float("-inf") if largest else float("inf"))
    if wanted == "values":
        local = emit(relax.op.topk(x, min(k, f.size), dim, wanted, largest))
        return emit(relax.op.topk(f.all_gather(local, dim), k, dim, wanted, largest))
    local = emit(relax.op.topk(x, min(k, f.size), dim, "both", largest, "int32"))
    values = f.all_gather(emit(relax.TupleGetItem(local, 0)), dim)
    places = f.all_gather(emit(relax.op.add(emit(relax.TupleGetItem(local, 1)), f.start("int32"))), dim)
    best = emit(relax.op.topk(values, k, dim, "both", largest, "int64"))
    chosen = emit(relax.op.gather_elements(places, emit(relax.TupleGetItem(best, 1)), dim))
    if str(attrs.dtype) != "int32":
        chosen = emit(relax.op.astype(chosen, str(attrs.dtype)))
    return chosen if wanted == "indices" else (emit(relax.TupleGetItem(best, 0)), chosen)
