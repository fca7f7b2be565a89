"""How many blocks of threads a multiprocessor of an NVIDIA GPU holds at once, which bounds the registers of each thread."""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

BLOCKS = 4
LARGEST = 256
"""Threads of the largest blocks that are bounded: four of them leave each thread 64 registers, and any GPU takes 1024 threads."""
KEY = "tirx.launch_bounds_min_blocks_per_sm"
"""The attribute that TVM's code generator writes into `__launch_bounds__`."""


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.BoundRegisters")
class BoundRegisters:
    """Kernels of small blocks say that `BLOCKS` of them are to fit a multiprocessor.

    Left alone, ptxas fits five blocks of attention, and of products of few rows, by moving some registers of each thread to memory.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` with the bound; the same one where it has no threads yet, or its blocks are large."""

        def bound(loop: tirx.For, mutator: Any) -> Any:
            if loop.thread_binding is None:
                return mutator.default_mutate(loop)
            if not 0 < _threads(loop) <= LARGEST:
                return loop
            body = tirx.AttrStmt(0, KEY, BLOCKS, loop.body)
            return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations)

        body = tvm_ffi.structural_mutate(func.body, [(tirx.For, bound)])
        return func if body.same_as(func.body) else func.with_body(body)


def _threads(loop: tirx.For) -> int:
    """The threads of a block of the kernel that this loop is the outermost one of; 0 where their number is not known."""
    extents: dict[str, int] = {}

    def see(inner: tirx.For) -> None:
        tag = str(inner.thread_binding.thread_tag) if inner.thread_binding is not None else ""
        if tag.startswith("threadIdx"):
            extents[tag] = int(inner.extent) if isinstance(inner.extent, tirx.IntImm) else 0

    tvm_ffi.structural_walk(loop, ((tirx.For,), see))
    return prod(extents.values())
