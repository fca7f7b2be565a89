"""Buckets, one-hot vectors and samples where boundaries, categories or distributions are split."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from spmd.placement.layout import pieces

from .context import FormContext, form


@form("bucketize")
def bucketize(f: FormContext) -> Any:
    """Counts of the boundaries that this worker holds; those in padding count as none."""
    values, bounds = f.args
    counts = f.emit(tvm.ir.Call(f.call.op, [values, f.masked(bounds, 0, float("inf"))], f.call.attrs))
    if not f.padded:
        return counts
    held = [pieces(f.split, f.mesh, worker)[0][2] for worker in range(f.workers)]
    return f.emit(relax.op.minimum(counts, f.own(np.array(held, f.node.outputs[0].dtype))))


@form("one_hot")
def one_hot(f: FormContext) -> Any:
    """Indices counted from where this worker's part of the depth starts; those outside of it are found nowhere."""
    (indices,), (_, on, off) = f.args, f.call.args
    indices = f.signed(indices)
    here = f.emit(relax.op.subtract(indices, f.start(str(indices.ty.dtype))))
    return f.emit(relax.op.one_hot(here, on, off, f.size, f.dim_of(0, output=True)))


@form("sample_rows")
def sample_rows(f: FormContext) -> Any:
    """Samples of rows that this worker does not hold count as zero."""
    chances, uniform, rows = f.args
    inside, here = f.in_shard(rows)
    samples = f.emit(tvm.ir.Call(f.call.op, [chances, uniform, here], f.call.attrs))
    return f.emit(relax.op.where(inside, samples, f.scalar(0, str(samples.ty.dtype))))
