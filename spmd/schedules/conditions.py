"""Conditions that read memory say nothing of the indices behind them: TVM 0.27 takes a wrong bound from them when it flattens buffers."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from spmd.ir.expressions import intrinsic

from .indices import reads_memory


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.OpaqueConditions")
class OpaqueConditions:
    """``T.if_then_else(c, a, b)``, where `c` reads memory, asks whether `c` as a number is not 0, of which TVM makes no bound.

    Part of a roll that is chosen by the worker's number is such a kernel: ``5 <= worker[0] * 9 + i`` makes of ``(i + 1) % 3`` there
    ``(i + max(1, ...)) % 3``.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` with such conditions rewritten."""
        body = tvm_ffi.structural_mutate(func.body, [(tvm.ir.Call, _rewritten)])
        return func if body.same_as(func.body) else func.with_body(body)


def _rewritten(node: Any, mutator: Any) -> Any:
    node = mutator.default_mutate(node)
    if intrinsic(node) != "if_then_else" or not reads_memory(node.args[0]):
        return node
    condition, *branches = node.args
    return tirx.if_then_else(tirx.NE(tirx.Cast("int32", condition), tirx.const(0, "int32")), *branches)
