"""Images: resizing over a split dimension, and operators that read where their inputs say."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from .context import FormContext, form
from .convolution import window_of
from .halo import fetch


@form("resize")
def resize(f: FormContext) -> Any:
    """Resizes own rows with a margin of the neighbours' (copies of the edge at both ends), and cuts off what the margin became."""
    window, emit = window_of(f), f.emit
    dim = f.dim_of(0, window.into)
    halo = window.halo(f.splits, f.mesh)
    rows = fetch(f, f.args[0], dim, halo, None, padded=f.padded)
    out = f.dim_of(0, window.out, output=True)
    whole = int(f.node.outputs[0].dims[out])
    count, before = f.size * window.rows * whole // window.size, window.before * whole // window.size
    spatial = out - window.place
    size = f.local_shape()[spatial : spatial + len(f.call.args[1].values)]
    size[window.place] = halo.length * whole // window.size
    made = emit(tvm.ir.Call(f.call.op, [rows, relax.ShapeExpr(size)], f.call.attrs))
    return emit(relax.op.strided_slice(made, [dim], [before], [before + count]))


@form("masked")
def masked(f: FormContext) -> Any:
    """The same call, with zeros where an input that says what is read, or how much, has padding."""
    args = [f.masked(x, dim, 0) if (dim := _dim(f, i)) is not None else x for i, x in enumerate(f.args)]
    return f.emit(tvm.ir.Call(f.call.op, args, f.call.attrs))


def _dim(f: FormContext, tensor: int) -> int | None:
    return next((i for i, dim in enumerate(f.rule.inputs[tensor]) if any(f.factor in piece for piece in dim)), None)


@form("regions_by_image")
def regions_by_image(f: FormContext) -> Any:
    """Regions of images that other workers hold are read from image 0, and count as zero."""
    (images, regions), emit = f.args, f.emit
    dtype = str(regions.ty.dtype)
    number = emit(relax.op.strided_slice(regions, [1], [0], [1]))
    first = emit(relax.op.astype(emit(relax.op.multiply(f.index(), f.scalar(f.size, "int64"))), dtype))
    here = emit(relax.op.subtract(number, first))
    zero, size = f.scalar(0, dtype), f.scalar(f.size, dtype)
    inside = emit(relax.op.logical_and(emit(relax.op.greater_equal(here, zero)), emit(relax.op.less(here, size))))
    width = int(regions.ty.shape.values[1])
    kept = emit(relax.op.strided_slice(regions, [1], [1], [width]))
    moved = emit(relax.op.concat([emit(relax.op.where(inside, here, zero)), kept], axis=1))
    made = emit(tvm.ir.Call(f.call.op, [images, moved], f.call.attrs))
    mask = emit(relax.op.reshape(inside, [regions.ty.shape.values[0], 1, 1, 1]))
    return emit(relax.op.where(mask, made, f.nothing(str(made.ty.dtype))))
