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
    dtype, size = str(indices.ty.dtype), f.scalar(f.size, str(indices.ty.dtype))
    indices = _in_range(f, indices, dtype)
    first = emit(relax.op.multiply(emit(relax.op.astype(f.index(), dtype)), size))
    here = emit(relax.op.subtract(indices, first))
    zero = f.scalar(0, dtype)
    inside = emit(relax.op.logical_and(emit(relax.op.greater_equal(here, zero)), emit(relax.op.less(here, size))))
    # Indices are clamped: reading outside of the table is undefined.
    rows = emit(tvm.ir.Call(f.call.op, [table, emit(relax.op.where(inside, here, zero))], f.call.attrs))
    trailing = table.ty.ndim - f.dim_of(0) - 1
    mask = emit(relax.op.reshape(inside, [*(indices.ty.shape.values if indices.ty.ndim else []), *[1] * trailing]))
    return emit(relax.op.where(mask, rows, f.scalar(0, str(rows.ty.dtype))))


def _in_range(f: FormContext, indices: Any, dtype: str) -> Any:
    """Indices outside of the whole table, as the operator itself would take them; "fast" leaves that open."""
    if f.call.attrs.mode == "clip":
        below = f.emit(relax.op.minimum(indices, f.scalar(f.split.size - 1, dtype)))
        return f.emit(relax.op.maximum(below, f.scalar(0, dtype)))
    if f.call.attrs.mode == "wrap":
        return f.emit(relax.op.floor_mod(indices, f.scalar(f.split.size, dtype)))
    return indices
