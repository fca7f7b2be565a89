"""The last rule: whatever has plain loops keeps them, cheap steps merged."""

from __future__ import annotations

from .analysis import CPURule, LoopNest, inline_cheap


class Fallback(CPURule):
    """Elementwise and everything else: loops in memory order, which LLVM vectorizes where it can."""

    def schedule(self, nest: LoopNest) -> bool:
        """Never declines a normalized loop nest."""
        inline_cheap(nest)
        sch = nest.sch
        for info in nest.blocks:
            loops = sch.get_loops(info.block_rv)
            spatial = [loop for loop, it in zip(loops, info.iters, strict=True) if it.kind == "S"]
            if spatial and info.iters[0].kind == "S":
                self.parallelize(sch, loops[0])
        return True
