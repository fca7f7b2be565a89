"""Cumulative sums and products along a split dimension."""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Any

from tvm import relax

from .context import FormContext, form


@form("scan")
def scan(f: FormContext) -> Any:
    """Each worker scans its shard, and adds (or multiplies by) the totals of the shards before it."""
    emit, dim, attrs = f.emit, f.dim_of(0), f.call.attrs
    dtype, size = f.node.outputs[0].dtype, f.size
    product = f.node.op == "relax.cumprod"
    run, join = (relax.op.cumprod, relax.op.multiply) if product else (relax.op.cumsum, relax.op.add)
    x = f.masked(f.args[0], dim, 1 if product else 0)
    flat = attrs.axis is None
    if flat:  # a run for each place in the dimensions before the split one
        shape = list(x.ty.shape.values)
        x = emit(relax.op.reshape(x, [reduce(mul, shape[:dim], 1), reduce(mul, shape[dim:], 1)]))
        dim, size = 1, x.ty.shape.values[1]
    local = emit(run(x, dim, dtype, bool(attrs.exclusive)))
    totals = emit(relax.op.strided_slice(local, [dim], [size - 1], [size]))
    if attrs.exclusive:
        last = emit(relax.op.strided_slice(x, [dim], [size - 1], [size]))
        totals = emit(join(totals, emit(relax.op.astype(last, dtype))))
    totals = f.all_gather(totals, dim)
    # Over the flattened tensor, the run of one worker goes on in the run of the next, and the last one's in the next run of the first.
    before = emit(run(totals, None if flat else dim, dtype, True))
    if flat:
        before = emit(relax.op.reshape(before, totals.ty.shape))
    mine = emit(relax.op.expand_dims(emit(relax.op.take(before, f.index(), axis=dim, mode="clip")), dim))
    result = emit(join(local, mine))
    return emit(relax.op.flatten(result)) if flat else result
