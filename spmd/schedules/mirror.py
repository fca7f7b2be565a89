"""Indices that fall are divided the other way round: TVM 0.27 forgets the constant of ``(4 - i) % 3`` when it flattens buffers."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from .cpu.analysis import constant


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.MirrorIndices")
class MirrorIndices:
    """``a // n`` becomes ``-1 - (-1 - a) // n``, and ``a % n`` becomes ``n - 1 - (-1 - a) % n``, where `a` only falls in its variables.

    A flip and a roll in one kernel make such an index; so may a kernel of a user's.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` without quotients and remainders of what falls."""
        body = tvm_ffi.structural_mutate(func.body, [((tirx.FloorDiv, tirx.FloorMod), _rewritten)])
        return func if body.same_as(func.body) else func.with_body(body)


def _rewritten(node: Any, mutator: Any) -> Any:
    node = mutator.default_mutate(node)
    divisor = constant(node.b)
    if divisor is None or divisor < 1 or _signs(node.a, 1) != {-1}:
        return node
    rising = tvm.sym.Analyzer().simplify(-1 - node.a)
    if isinstance(node, tirx.FloorDiv):
        return -1 - tirx.floordiv(rising, node.b)
    return node.b - 1 - tirx.floormod(rising, node.b)


def _signs(expr: Any, sign: int) -> set[int]:
    """Whether an expression rises (1) or falls (-1) in its terms that are no constants."""
    if constant(expr) is not None:
        return set()
    if isinstance(expr, tirx.Add):
        return _signs(expr.a, sign) | _signs(expr.b, sign)
    if isinstance(expr, tirx.Sub):
        return _signs(expr.a, sign) | _signs(expr.b, -sign)
    if isinstance(expr, tirx.Mul):
        for term, factor in ((expr.a, constant(expr.b)), (expr.b, constant(expr.a))):
            if factor is not None:
                return _signs(term, sign if factor > 0 else -sign) if factor else set()
    return {sign}
