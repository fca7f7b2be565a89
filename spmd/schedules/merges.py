"""Kernels whose threads all write what they all have read: TVM 0.27's merge of two results of attention on GPUs is one."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.script import tirx as T  # pyright: ignore[reportMissingModuleSource]

from .cpu.analysis import variables
from .scheduling import is_scheduled

_ALONG = "threadIdx.x"
_SYNC = T.tvm_storage_sync("shared")


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.ReadBeforeMerge")
class ReadBeforeMerge:
    """Where the threads of a block read an element and then all write it, they wait for each other in between.

    Each thread of TVM's merge takes a part of a head and writes the sum of exponentials of the whole head, by which others still scale
    their part. Threads that run in step do no harm: those of one warp, where a head has 128 features or fewer. Others give a wrong number.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` with barriers; the same one where it needs none."""
        along: set[tirx.Var] = set()

        def see(loop: tirx.For) -> None:
            if loop.thread_binding is not None and str(loop.thread_binding.thread_tag) == _ALONG:
                along.add(loop.loop_var)

        tvm_ffi.structural_walk(func.body, ((tirx.For,), see))
        if not along or not is_scheduled(func):
            return func

        def block(node: Any, mutator: Any) -> Any:
            node = mutator.default_mutate(node)
            steps = list(node.body.seq) if isinstance(node.body, tirx.SeqStmt) else []
            shared = [i for i, step in enumerate(steps) if i and _is_shared(step, steps[:i], along)]
            if not shared:
                return node
            barrier = tirx.Evaluate(_SYNC)
            made = [part for i, step in enumerate(steps) for part in ([barrier] * (i == shared[0]) + [step])]
            return s_tir.SBlock(
                node.iter_vars, node.reads, node.writes, node.name_hint, tirx.SeqStmt(made), node.init, node.alloc_buffers,
                node.match_buffers, node.annotations,
            )  # fmt: skip

        body = tvm_ffi.structural_mutate(func.body, [(s_tir.SBlock, block)])
        return func if body.same_as(func.body) else func.with_body(body)


def _is_shared(step: Any, before: list[Any], along: set[tirx.Var]) -> bool:
    """Whether a step writes an element of global memory that is the same for all threads, and that a step before has read."""
    if not isinstance(step, tirx.BufferStore) or step.buffer.scope() != "global":
        return False
    if variables(step.indices) & along:
        return False
    read: list[Any] = []
    for other in before:
        read = [] if _is_barrier(other) else read
        tvm_ffi.structural_walk(other, ((TensorLoad,), read.append))
    return any(load.source.same_as(step.buffer) for load in read)


def _is_barrier(step: Any) -> bool:
    return isinstance(step, tirx.Evaluate) and isinstance(step.value, tvm.ir.Call) and step.value.op == _SYNC.op
