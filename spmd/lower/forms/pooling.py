"""Pooling over a split spatial dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from spmd.placement.dtypes import finite_ends, numpy_dtype
from spmd.rules.windows import Window

from .context import FormContext, form
from .convolution import rows_under, unpadded, window_of


@form("max_pooling")
def max_pooling(f: FormContext) -> Any:
    """The same pooling over the fetched rows; what stands in the padding of a window is the lowest number, as in TVM's own."""
    window, dtype = window_of(f), str(f.args[0].ty.dtype)
    return f.emit(tvm.ir.Call(f.call.op, [rows_under(f, window, float(finite_ends(dtype)[0]))], unpadded(f, window)))


@form("avg_pooling")
def avg_pooling(f: FormContext) -> Any:
    """The mean over whole windows, scaled where a window reaches into the padding and so counts fewer rows."""
    window = window_of(f)
    made = f.emit(tvm.ir.Call(f.call.op, [rows_under(f, window, 0)], unpadded(f, window)))
    scale = np.array(_scales(f, window))
    if (scale == 1).all():
        return made
    dtype, dim = str(made.ty.dtype), f.dim_of(0, window.out, output=True)
    factors = f.own(scale.astype(numpy_dtype(dtype)))
    along = f.emit(relax.op.reshape(factors, [scale.shape[1] if d == dim else 1 for d in range(made.ty.ndim)]))
    return f.emit(relax.op.multiply(made, along))


def _scales(f: FormContext, window: Window) -> list[list[float]]:
    """The kernel rows over the counted rows of each window, for each worker."""
    attrs, count, out = f.call.attrs, window.windows(f.splits, f.mesh), f.splits[window.out].size
    after = int(attrs.padding[window.place + len(attrs.padding) // 2])

    def counted(place: int) -> int:
        start = place * window.stride - window.before
        end = min(start + window.extent, window.size + (after if attrs.count_include_pad else 0))
        skipped = 0 if attrs.count_include_pad else -(min(start, 0) // window.dilation) * window.dilation
        return len(range(start + skipped, end, window.dilation))

    return [[window.kernel / max(counted(p), 1) if p < out else 1.0 for p in range(w * count, (w + 1) * count)] for w in range(f.workers)]


@form("global_mean")
def global_mean(f: FormContext) -> Any:
    """A mean over the whole dimension: each worker's part of it, to be summed."""
    dim = f.dim_of(0)
    made = f.emit(tvm.ir.Call(f.call.op, [f.masked(f.args[0], dim, 0)], f.attrs))
    return f.emit(relax.op.multiply(made, f.scalar(f.size / f.split.size, str(made.ty.dtype))))
