"""Sizes and indices, which TVM has as expressions: the numbers that they are, and the variables in them."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx


def static(expr: Any) -> int | None:
    """The integer that an expression is, or None where it is symbolic."""
    return expr if isinstance(expr, int) else int(expr.value) if isinstance(expr, tirx.IntImm) else None


def intrinsic(expr: Any) -> str:
    """The scalar operation that an expression calls, without the prefix that TVM gives it (``exp``, ``if_then_else``); else nothing."""
    name = expr.op.name if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op) else ""
    return next((name.removeprefix(prefix) for prefix in ("tirx.", "prim.") if name.startswith(prefix)), "")


def variables(expr: Any) -> list[Any]:
    """The variables in an expression that are no buffers, as often as they stand there."""
    found: list[Any] = []

    def visit(node: Any, visitor: Any) -> None:
        if isinstance(node, tvm.ir.Var):
            if not isinstance(node.ty, tirx.BufferType):
                found.append(node)
        else:
            visitor.default_visit(node)

    if not isinstance(expr, int):
        tvm_ffi.structural_visit(expr, [((tvm.ir.Expr,), visit)])
    return found
