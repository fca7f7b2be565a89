"""Softmax, norms and other chains of reductions: one row at a time, so that it stays in the first-level cache."""

from __future__ import annotations

from tvm.s_tir import ScheduleError
from tvm.s_tir.dlight.analysis import SBlockInfo

from .analysis import CPURule, LoopNest, inline_cheap, same


class Rowwise(CPURule):
    """All blocks of a chain run inside the leading spatial loops that they share with the last one."""

    def schedule(self, nest: LoopNest) -> bool:
        """Declines where the blocks share no leading spatial loop."""
        inline_cheap(nest)
        if not nest.reductions or len(nest.blocks) < 2:
            return False
        sch, last = nest.sch, nest.blocks[-1]
        if len(sch.get_consumers(last.block_rv)) or last.is_reduction():
            return False
        depth = min(_shared(info, last) for info in nest.reductions)
        if depth == 0:
            return False
        row = sch.get_loops(last.block_rv)[depth - 1]
        for info in reversed(nest.blocks[:-1]):
            try:
                sch.compute_at(info.block_rv, row, preserve_unit_loops=True)
            except ScheduleError:
                if info.is_reduction():
                    raise
        self.parallelize(sch, *sch.get_loops(last.block_rv)[:depth])
        return True


def _shared(info: SBlockInfo, last: SBlockInfo) -> int:
    """How many leading spatial iterators of equal extent two blocks have."""
    count = 0
    for own, other in zip(info.iters, last.iters, strict=False):
        if own.kind != "S" or other.kind != "S" or not same(own.dom, other.dom):
            break
        count += 1
    return count
