"""Products of few rows beside the tile: which kernel runs is chosen when it is launched, by the number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.s_tir.dlight.gpu import LowBatchGEMV

from spmd.schedules.rows import rows_of, with_choice

MOST_ROWS = {2: 2, 8: 4}
"""{rows: how many of them a block of threads computes}: up to so many rows, kernels read the weight as for one, or twice."""
FEW = "spmd.few_rows"
"""The attribute of a function that has such kernels: the largest of MOST_ROWS."""
_DECODED = "dequantize"
"""What dlight looks for in the name of a block that decodes a weight, to do it once for all rows of a block of threads."""

Attempt = Callable[[ScheduleRule, tirx.PrimFunc], tirx.PrimFunc | None]


def few_rows(func: tirx.PrimFunc, whole: tirx.PrimFunc, attempt: Attempt) -> tirx.PrimFunc:
    """`whole`, the kernel of the product `func`, preceded by kernels for few rows; as it is where its rows are no symbolic size.

    `attempt` gives what a rule makes of a function, or None.
    """
    row, body = rows_of(func), whole.body
    if row is None:
        return whole
    named = _with_decoding_named(func)
    for most, each in sorted(MOST_ROWS.items(), reverse=True):
        narrow = attempt(LowBatchGEMV(each), named)
        if narrow is None:
            return whole
        body = tirx.IfThenElse(tirx.op.tvm_thread_invariant(row <= most), narrow.body, body)
    return with_choice(whole, body).with_attrs({"tirx.HoistIfThenElseExprWithBlock": 1, FEW: max(MOST_ROWS)})


def _with_decoding_named(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func`, with the last block that decodes integers for the product under the name by which dlight knows it."""
    made: dict[Any, s_tir.SBlock] = {}
    products: list[s_tir.SBlock] = []

    def see(block: s_tir.SBlock) -> None:
        if any(it.iter_type == tirx.IterVar.CommReduce for it in block.iter_vars):
            products.append(block)
        else:
            made.update({region.source: block for region in block.writes if block.iter_vars})

    def decodes(buffer: Any) -> bool:
        return "int" in str(buffer.dtype) if buffer not in made else any(decodes(region.source) for region in made[buffer].reads)

    tvm_ffi.structural_walk(func.body, (s_tir.SBlock, see))
    sources = [region.source for block in products for region in block.reads]
    wanted = [made[source] for source in sources if source in made and decodes(source)]

    def renamed(block: s_tir.SBlock, mutator: Any) -> s_tir.SBlock:
        if not any(block.same_as(other) for other in wanted):
            return mutator.default_mutate(block)
        name = f"{_DECODED}_{block.name_hint}"
        return s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, name, block.body, block.init,
            block.alloc_buffers, block.match_buffers, block.annotations,
        )  # fmt: skip

    return func.with_body(tvm_ffi.structural_mutate(func.body, [(s_tir.SBlock, renamed)])) if wanted else func
