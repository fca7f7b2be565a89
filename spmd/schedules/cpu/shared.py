"""Costly functions that many iterations of a kernel share, such as the sines of rotary embeddings, which all heads have in common."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad

from spmd.ir.expressions import static, variables
from spmd.schedules.lets import without_lets
from spmd.schedules.scheduling import is_scheduled
from spmd.schedules.stages import point, stage

from .analysis import is_costly_call

_FEW = 4
"""Iterations that are to share a value before it is worth a table."""


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.ShareCostly")
class ShareCostly:
    """In a kernel of one block, what calls a costly function and hangs on some of its dimensions only is computed first, into a table.

    It may read what the kernel is given, at its own iterations; so it can be computed wherever it is not asked for, too.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` itself where nothing is shared."""
        root = func.body.block if isinstance(func.body, s_tir.SBlockRealize) else None
        realize = _only_block(root.body) if root is not None and not is_scheduled(func) else None
        if root is None or realize is None:
            return func
        tables = _Tables(func, realize.block)
        body = tvm_ffi.structural_mutate(without_lets(realize.block.body), [(tvm.ir.Call, tables.replace)])
        if not tables.made:
            return func
        old = realize.block
        reads = [*old.reads, *(tirx.BufferRegion(table, point(axes)) for table, _, axes in tables.made)]
        new = s_tir.SBlock(old.iter_vars, reads, old.writes, old.name_hint, body, None, old.alloc_buffers, [], old.annotations)
        nest = tvm_ffi.structural_mutate(root.body, [(s_tir.SBlock, lambda node, _: new if node.same_as(old) else node)])
        stages = tirx.SeqStmt([*(stage(*one, str(one[0].name)) for one in tables.made), nest])
        held = [*root.alloc_buffers, *(table for table, _, _ in tables.made)]
        outer = s_tir.SBlock([], root.reads, root.writes, root.name_hint, stages, None, held, [], root.annotations)
        return func.with_body(s_tir.SBlockRealize([], True, outer))


class _Tables:
    """The tables of one block: each a buffer, what is in it, and the variables of the block that tell where."""

    def __init__(self, func: tirx.PrimFunc, block: s_tir.SBlock) -> None:
        self.made: list[tuple[Any, Any, list[Any]]] = []
        self._axes = {it.var: it.dom.extent for it in block.iter_vars}
        written = [region.source for region in block.writes]
        self._given = [p for p in func.params if isinstance(p.ty, tirx.BufferType) and not any(p.same_as(w) for w in written)]
        self._known = [p for p in func.params if not isinstance(p.ty, tirx.BufferType)]

    def replace(self, call: Any, mutator: Any) -> Any:
        """What reads a table, where a call is worth one."""
        axes = self._worth(call) if is_costly_call(call) else None
        if axes is None:
            return mutator.default_mutate(call)
        table = next((table for table, value, _ in self.made if tvm_ffi.structural_equal(value, call)), None)
        if table is None:
            table = tirx.decl_buffer([self._axes[axis] for axis in axes], str(call.ty.dtype), f"shared_{len(self.made)}")
            self.made.append((table, call, axes))
        return tirx.BufferLoad(table, axes)

    def _worth(self, call: Any) -> list[Any] | None:
        used = variables(call)
        axes = [axis for axis in self._axes if any(axis.same_as(var) for var in used)]
        others = [var for var in used if not any(var.same_as(one) for one in [*axes, *self._known])]
        left = [static(extent) for axis, extent in self._axes.items() if not any(axis.same_as(one) for one in axes)]
        shared = any(extent is None or extent >= _FEW for extent in left)
        loads: list[Any] = []
        tvm_ffi.structural_walk(call, (TensorLoad, loads.append))
        return axes if axes and shared and not others and all(map(self._is_given, loads)) else None

    def _is_given(self, load: Any) -> bool:
        """Whether it reads an argument at iterations of the block, all of which it has."""
        if not any(load.source.same_as(given) for given in self._given):
            return False
        extents = [next((extent for axis, extent in self._axes.items() if axis.same_as(i)), None) for i in load.indices]
        return all(e is not None and tvm_ffi.structural_equal(e, size) for e, size in zip(extents, load.source.shape, strict=True))


def _only_block(body: Any) -> Any:
    """The block in a nest of loops over all of its dimensions, where there is no other statement."""
    loops: list[Any] = []
    while isinstance(body, tirx.For):
        loops.append(body.loop_var)
        body = body.body
    if not isinstance(body, s_tir.SBlockRealize) or body.block.init is not None or len(body.block.match_buffers):
        return None
    plain = all(it.iter_type == tirx.IterVar.DataPar for it in body.block.iter_vars) and static(body.predicate) in (1, True)
    same = len(loops) == len(body.iter_values) and all(a.same_as(b) for a, b in zip(loops, body.iter_values, strict=True))
    return body if plain and same else None
