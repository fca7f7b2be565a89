"""Reading rows of a table that is split over its rows."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from .context import FormContext, form


@form("lookup")
def lookup(f: FormContext) -> Any:
    """Rows that this worker does not hold count as zero; the sum over workers is the look-up."""
    (table, indices), emit = f.args, f.emit
    indices = _in_range(f, f.signed(indices))
    # A place that is not here is 0: reading outside of the table is undefined.
    inside, here = f.in_shard(indices)
    rows = emit(tvm.ir.Call(f.call.op, [table, here], f.call.attrs))
    trailing = table.ty.ndim - f.dim_of(0) - 1
    mask = emit(relax.op.reshape(inside, [*(indices.ty.shape.values if indices.ty.ndim else []), *[1] * trailing]))
    return emit(relax.op.where(mask, rows, f.scalar(0, str(rows.ty.dtype))))


def _in_range(f: FormContext, indices: Any) -> Any:
    """Indices outside of the whole table, as the operator itself would take them; "fast" leaves that open."""
    dtype = str(indices.ty.dtype)
    if f.call.attrs.mode == "clip":
        below = f.emit(relax.op.minimum(indices, f.scalar(f.split.size - 1, dtype)))
        return f.emit(relax.op.maximum(below, f.scalar(0, dtype)))
    if f.call.attrs.mode == "wrap":
        return f.emit(relax.op.floor_mod(indices, f.scalar(f.split.size, dtype)))
    return indices
