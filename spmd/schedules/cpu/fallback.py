"""The last rule: whatever has plain loops keeps them, cheap steps merged."""

from __future__ import annotations

from itertools import takewhile

from .analysis import CPURule, LoopNest, inline_cheap


class Fallback(CPURule):
    """Elementwise and everything else: loops in memory order, which LLVM vectorizes where it can."""

    def schedule(self, nest: LoopNest) -> bool:
        """Never declines a normalized loop nest."""
        inline_cheap(nest)
        sch = nest.sch
        for info in nest.blocks:
            loops = sch.get_loops(info.block_rv)
            spatial = takewhile(lambda pair: pair[1].kind == "S", zip(loops, info.iters, strict=True))
            self.parallelize(sch, *(loop for loop, _ in spatial))
        return True
