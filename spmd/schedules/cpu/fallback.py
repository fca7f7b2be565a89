"""The last rule: whatever has plain loops keeps them, cheap steps merged."""

from __future__ import annotations

from .analysis import CPURule, Kernel, inline_cheap


class Fallback(CPURule):
    """Elementwise and everything else: loops in memory order, which LLVM vectorizes where it can."""

    def schedule(self, kernel: Kernel) -> bool:
        """Never declines a normalized kernel."""
        inline_cheap(kernel)
        sch = kernel.sch
        for info in kernel.blocks:
            loops = sch.get_loops(info.block_rv)
            spatial = [loop for loop, it in zip(loops, info.iters, strict=True) if it.kind == "S"]
            if spatial and info.iters[0].kind == "S":
                self.parallelize(sch, loops[0])
        return True
