"""Stages of a kernel that fill a buffer of its own."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad


def stage(buffer: Any, value: Any, axes: list[Any], name: str) -> Any:
    """Loops over one block of this name: ``buffer[axes] = value`` for all `axes`, which are variables in `value`."""
    inner = [tirx.Var(str(axis.name), axis.ty.dtype) for axis in axes]
    loops = [tirx.Var(f"{axis.name}_", axis.ty.dtype) for axis in axes]
    names = list(zip(axes, inner, strict=True))
    filled = tvm_ffi.structural_mutate(value, [(tirx.Var, lambda var, _: next((new for old, new in names if old.same_as(var)), var))])
    loads: list[Any] = []
    tvm_ffi.structural_walk(filled, (TensorLoad, loads.append))
    reads = [tirx.BufferRegion(load.source, point(load.indices)) for load in loads]
    iters = [tirx.IterVar(tvm.ir.Range(0, size), var, tirx.IterVar.DataPar) for size, var in zip(buffer.shape, inner, strict=True)]
    block = s_tir.SBlock(iters, reads, [tirx.BufferRegion(buffer, point(inner))], name, tirx.BufferStore(buffer, filled, inner))
    nest: Any = s_tir.SBlockRealize(loops, True, block)
    for loop, size in reversed(list(zip(loops, buffer.shape, strict=True))):
        nest = tirx.For(loop, 0, size, tirx.ForKind.SERIAL, nest)
    return nest


def point(indices: Any) -> list[Any]:
    """The region of one element."""
    return [tvm.ir.Range.from_min_extent(index, 1) for index in indices]
