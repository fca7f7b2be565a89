"""Kernels that choose by the number of rows which of their loops run."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx


def rows_of(func: tirx.PrimFunc) -> Any:
    """The only symbolic size of a function's parameters; None where there is none, or several."""
    rows = {size for param in func.params if hasattr(param, "shape") for size in param.shape if isinstance(size, tirx.Var)}
    return rows.pop() if len(rows) == 1 else None


def with_choice(func: tirx.PrimFunc, body: Any) -> tirx.PrimFunc:
    """`func` with this body, which chooses between loops, each with a root of its own."""
    return func.with_body(s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body)))
