"""Reductions of one element are none: TVM 0.27 drops their loop, keeps their init, and merges what follows into both."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad

from .cpu.analysis import is_reduction_block, is_unit


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.SingleTerms")
class SingleTerms:
    """A block that reduces over loops of one pass each computes its only term, ``0 + x``, and reduces nothing.

    Else dlight's fallback for GPUs merges ``y = rsqrt(sum + 1)`` into it, and gets ``rsqrt(rsqrt(0 + 1) + x + 1)``.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` without reductions of one element."""
        body = tvm_ffi.structural_mutate(func.body, [(s_tir.SBlock, _rewritten)])
        return func if body.same_as(func.body) else func.with_body(body)


def _rewritten(block: s_tir.SBlock, mutator: Any) -> s_tir.SBlock:
    block = mutator.default_mutate(block)
    first, body = block.init, block.body
    if not isinstance(first, tirx.BufferStore) or not isinstance(body, tirx.BufferStore) or not is_reduction_block(block):
        return block
    if not all(is_unit(it.dom.extent) for it in block.iter_vars if it.iter_type == tirx.IterVar.CommReduce):
        return block

    elsewhere = False

    def see(load: TensorLoad, inner: Any) -> Any:
        nonlocal elsewhere
        if not load.source.same_as(body.buffer):
            return inner.default_mutate(load)
        elsewhere |= not tvm_ffi.structural_equal(load.indices, body.indices)
        return first.value

    value = tvm_ffi.structural_mutate(body.value, [(TensorLoad, see)])
    if elsewhere:  # what it reads there is no start of its own
        return block
    iters = [tirx.IterVar(it.dom, it.var, tirx.IterVar.DataPar) for it in block.iter_vars]
    store = tirx.BufferStore(body.buffer, value, body.indices)
    return s_tir.SBlock(
        iters, block.reads, block.writes, block.name_hint, store, None, block.alloc_buffers, block.match_buffers, block.annotations
    )
