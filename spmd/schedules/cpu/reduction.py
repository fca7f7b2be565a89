"""Matrix-vector products in both layouts, and every other single reduction: bound by memory, so walk memory in order."""

from __future__ import annotations

from contextlib import suppress

from tvm.s_tir import Schedule, ScheduleError
from tvm.s_tir.dlight.analysis import SBlockInfo
from tvm.s_tir.schedule import LoopRV, SBlockRV

from .analysis import CPURule, LoopNest, constant, contiguous_variable, covers, divisor, inline_cheap, inline_epilogues

ROWS_AT_ONCE = 8  # rows of W streamed together: fewer passes over the accumulators, still within the prefetchers
ROWS_BESIDE = 8  # rows of W along which sums run: as many streams from memory at a time
ACCUMULATORS = 4096  # of them at a time: 16 KiB of float32, half of a first-level cache


class Reduction(CPURule):
    """One reduction block, and elementwise blocks after it.

    `y[s] = sum_r f(s, r)` with r contiguous (`x @ W^T`, weights packed in words too): one accumulator for each s, r
    innermost; LLVM makes several vectors of it.
    With s contiguous (`x @ W`): a strip of accumulators, several r at once, s innermost.
    """

    def schedule(self, nest: LoopNest) -> bool:
        """Declines anything but a single reduction with elementwise surroundings."""
        inline_cheap(nest)
        inline_epilogues(nest)
        if len(nest.reductions) != 1 or len(nest.blocks) > 2 or not nest.blocks[0].is_reduction():
            return False
        main = nest.blocks[0]
        if set(main.dom_kind()) not in ({"S", "R"}, {"R"}) or len(nest.sch.get(main.block_rv).writes) != 1:
            return False
        epilogue = nest.blocks[1].block_rv if len(nest.blocks) == 2 else None
        inner = contiguous_variable(nest.sch.get(main.block_rv))
        across = next((i for i, it in enumerate(main.iters) if it.kind == "S" and it.var.same_as(inner)), None)
        if across is None:
            self._along(nest.sch, main, epilogue)
        else:
            self._across(nest.sch, main, epilogue, across)
        return True

    def _along(self, sch: Schedule, main: SBlockInfo, epilogue: SBlockRV | None) -> None:
        """Reduced iterators innermost, the sum in a register."""
        spatial, reduced = _split_loops(sch, main)
        sch.reorder(*spatial, *reduced)
        if not spatial:
            return
        rows = divisor(sch.get(spatial[-1]).extent, ROWS_BESIDE) if len(reduced) == 1 else 1
        if rows > 1:
            spatial[-1], row = sch.split(spatial[-1], [None, rows])
            sch.reorder(*spatial, *reduced, row)
            sch.unroll(row)
        _write_out(sch, main.block_rv, epilogue, spatial[-1])
        self.parallelize(sch, *spatial)
        start = sch.decompose_reduction(main.block_rv, reduced[0])
        if rows > 1:
            sch.unroll(sch.get_loops(start)[-1])

    def _across(self, sch: Schedule, main: SBlockInfo, epilogue: SBlockRV | None, axis: int) -> None:
        """A strip of the contiguous spatial iterator innermost, added to by several rows at a time."""
        _, reduced = _split_loops(sch, main)
        strip = sch.get_loops(main.block_rv)[axis]
        others = [loop for loop, it in zip(sch.get_loops(main.block_rv), main.iters, strict=True) if it.kind == "S"]
        others.pop([i for i, it in enumerate(main.iters) if it.kind == "S"].index(axis))
        outer, inner = sch.split(strip, _strips(sch.get(strip).extent))
        rows = divisor(sch.get(reduced[-1]).extent, ROWS_AT_ONCE)
        row_block, row = sch.split(reduced[-1], [None, rows])
        sch.reorder(*others, outer, *reduced[:-1], row_block, inner, row)
        sch.unroll(row)
        _write_out(sch, main.block_rv, epilogue, outer)
        self.parallelize(sch, *others, outer)
        sch.decompose_reduction(main.block_rv, [*reduced[:-1], row_block][0])


def _split_loops(sch: Schedule, main: SBlockInfo) -> tuple[list[LoopRV], list[LoopRV]]:
    loops = list(zip(sch.get_loops(main.block_rv), main.iters, strict=True))
    return [loop for loop, it in loops if it.kind == "S"], [loop for loop, it in loops if it.kind == "R"]


def _strips(extent: object) -> list[int | None]:
    """Factors for a strip of accumulators: a divisor, so that no tail needs a guard, or all at once."""
    size, best = constant(extent), divisor(extent, ACCUMULATORS)
    return [1, None] if size is None or best < min(size, 256) else [None, best]


def _write_out(sch: Schedule, main: SBlockRV, epilogue: SBlockRV | None, at: LoopRV) -> None:
    """Accumulate locally; leave loop `at` through the epilogue, or through a plain copy."""
    if epilogue is None:
        sch.reverse_compute_at(sch.cache_write(main, 0, "global"), at)
        return
    if covers(sch.get(epilogue), sch.get(main)):
        with suppress(ScheduleError):  # its domain is not that of the sum: it runs on its own afterwards
            sch.reverse_compute_at(epilogue, at)
