"""Reading rows of a table that is split over its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from .context import FormContext, form


@form("lookup")
def lookup(f: FormContext) -> Any:
    """Rows that this worker does not hold count as nothing; the sum over workers is the look-up."""
    table, emit, op = f.args[0], f.emit, f.node.op
    dim = f.dim_of(0)
    args, missing, trailing = f.args[1:], None, table.ty.ndim - dim - 1
    if op == "relax.take":
        given = args[0] if args else relax.const(np.array(int(f.call.args[1].value)), "int64")
        given = f.signed(given)
        inside, here = f.in_shard(_in_range(f, given))
        if f.call.attrs.mode == "nan":
            missing = _outside(f, given)
        # Indices are clamped: reading outside of the table is undefined.
        rows = emit(relax.op.take(table, here, axis=dim, mode="clip"))
    elif op == "relax.gather_elements":
        inside, here = f.in_shard(args[0])
        rows, trailing = emit(tvm.ir.Call(f.call.op, [table, here], f.call.attrs)), 0
    elif op == "relax.gather_nd":
        batch, count = int(f.call.attrs.batch_dims), int(args[0].ty.shape.values[-1])
        inside, here = component(f, args[0], dim - batch)
        rows, trailing = emit(tvm.ir.Call(f.call.op, [table, here], f.call.attrs)), table.ty.ndim - batch - count
    else:
        inside, here = f.in_shard(args[dim])
        indices = [here if i == dim else index for i, index in enumerate(args)]
        rows, trailing = emit(relax.op.index_tensor(table, indices)), table.ty.ndim - len(args)
    return emit(relax.op.where(_over(f, inside, trailing), rows, _zero(f, rows, missing, trailing)))


def component(f: FormContext, indices: Any, at: int, dummy: int = 0) -> tuple[Any, Any]:
    """`FormContext.in_shard` of one component of indices whose last dimension holds several: whether it is in the shard, and
    the indices with that component a place in the shard (`dummy` where it is not).
    """
    indices = f.signed(indices)
    rank, count, dtype = indices.ty.ndim, int(indices.ty.shape.values[-1]), str(indices.ty.dtype)
    inside, here = f.in_shard(indices)
    if dummy:
        here = f.emit(relax.op.where(inside, here, f.scalar(dummy, dtype)))
    chosen = relax.const((np.arange(count) == at).reshape((1,) * (rank - 1) + (count,)), "bool")
    mine = f.emit(relax.op.take(inside, relax.const(np.array(at), "int64"), axis=rank - 1, mode="clip"))
    return mine, f.emit(relax.op.where(chosen, here, indices))


def _zero(f: FormContext, rows: Any, missing: Any, trailing: int) -> Any:
    dtype = str(rows.ty.dtype)
    zero = f.nothing(dtype)
    return zero if missing is None else f.emit(relax.op.where(_over(f, missing, trailing), f.scalar(float("nan"), dtype), zero))


def _over(f: FormContext, mask: Any, trailing: int) -> Any:
    """A mask over places, for rows with `trailing` more dimensions."""
    if not trailing:
        return mask
    return f.emit(relax.op.reshape(mask, [*(mask.ty.shape.values if mask.ty.ndim else []), *[1] * trailing]))


def _outside(f: FormContext, indices: Any) -> Any:
    """Whether an index is outside of the whole table."""
    dtype = str(indices.ty.dtype)
    below = f.emit(relax.op.less(indices, f.scalar(0, dtype)))
    return f.emit(relax.op.logical_or(below, f.emit(relax.op.greater_equal(indices, f.scalar(f.split.size, dtype)))))


def _in_range(f: FormContext, indices: Any) -> Any:
    """Indices outside of the whole table, as the operator itself would take them; "fast" leaves that open."""
    dtype = str(indices.ty.dtype)
    if f.call.attrs.mode == "clip":
        below = f.emit(relax.op.minimum(indices, f.scalar(f.split.size - 1, dtype)))
        return f.emit(relax.op.maximum(below, f.scalar(0, dtype)))
    if f.call.attrs.mode == "wrap":
        return f.emit(relax.op.floor_mod(indices, f.scalar(f.split.size, dtype)))
    return indices
