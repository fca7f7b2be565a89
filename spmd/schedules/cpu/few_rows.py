"""Products of few rows beside the tile of many: which loops run is chosen in the kernel, by the number of rows."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from spmd.schedules.rows import rows_of, with_choice

MOST_ROWS = 16
"""Up to so many rows, a weight is read where it lies: copying it to where many rows want it costs more."""


def by_rows(func: tirx.PrimFunc, many: tirx.PrimFunc, few: tirx.PrimFunc | None) -> tirx.PrimFunc:
    """The kernel of a product that is scheduled for many rows and for few; `many` where its rows are no symbolic size."""
    rows = rows_of(func)
    if few is None or rows is None:
        return many
    return with_choice(many, tirx.IfThenElse(rows <= MOST_ROWS, _apart(few.body), many.body))


def _apart(body: Any) -> Any:
    """The same loops with variables and buffers of their own: TVM knows each by where it is defined."""
    own: list[tvm.ir.Var] = []

    def see(block: s_tir.SBlock) -> None:
        own.extend([*block.alloc_buffers, *(it.var for it in block.iter_vars)])

    tvm_ffi.structural_walk(body, [(s_tir.SBlock, see), (tirx.For, lambda loop: own.append(loop.loop_var))])
    new = {var: tvm.ir.Var(var.name, var.ty) for var in own}
    return tvm_ffi.structural_mutate(body, [(tvm.ir.Var, lambda var, _: new.get(var, var))])
