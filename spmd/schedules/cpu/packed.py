"""Matrix-vector products with weights packed several to a word, decoded on the way into the registers."""

from __future__ import annotations

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from spmd.schedules.cpu.analysis import CPURule, Kernel, constant, divisor, inline_cheap, inline_epilogues, variables

CHAINS = 2  # words at a time: as many independent sums as it takes to hide the latency of an addition


class PackedMatvec(CPURule):
    """`y[s] = sum_k x[k] * decode(words[s, k // 8], k % 8)`: the weights of one word are the lanes of one vector.

    LLVM alone would gather each weight's word from memory; here a word is loaded once and shifted by lane.
    """

    def schedule(self, kernel: Kernel) -> bool:
        """Declines unless one reduction reads a buffer through `k // lanes`."""
        inline_cheap(kernel)
        inline_epilogues(kernel)
        sch = kernel.sch
        if len(kernel.reductions) != 1 or len(kernel.blocks) > 2 or not kernel.blocks[0].is_reduction():
            return False
        main = kernel.blocks[0]
        lanes = word_lanes(sch.get(main.block_rv))
        if main.dom_kind().count("R") != 1 or lanes is None or len(kernel.blocks) == len(main.iters) == 1:
            return False
        loops = list(zip(sch.get_loops(main.block_rv), main.iters, strict=True))
        spatial = [loop for loop, it in loops if it.kind == "S"]
        k = next(loop for loop, it in loops if it.kind == "R")
        if not spatial or (constant(sch.get(k).extent) or 1) % lanes:
            return False
        sch.reorder(*spatial, k)
        chains = divisor((constant(sch.get(k).extent) or lanes) // lanes, CHAINS)
        _, lane = sch.split(k, [None, chains * lanes])
        partial = sch.rfactor(lane, len(spatial))
        at = sch.get_loops(main.block_rv)[len(spatial) - 1]
        if len(kernel.blocks) == 2:
            sch.reverse_compute_at(kernel.blocks[1].block_rv, at)
        sch.compute_at(partial, at)
        self._vectorize(kernel, partial, len(spatial), lanes)
        self.parallelize(sch, sch.fuse(*sch.get_loops(main.block_rv)[: len(spatial)]))
        return True

    def _vectorize(self, kernel: Kernel, partial: SBlockRV, depth: int, lanes: int) -> None:
        sch = kernel.sch
        sums, words = sch.get_loops(partial)[depth:]
        sch.reorder(words, sums)
        chain, lane = sch.split(sums, [None, lanes])
        sch.unroll(chain)
        sch.vectorize(lane)
        start = sch.get_loops(sch.decompose_reduction(partial, words))
        sch.unroll(start[-2])
        sch.vectorize(start[-1])


def word_lanes(block: s_tir.SBlock) -> int | None:
    """How many values of the reduced iterator share one word: the smallest divisor that indexes a read."""
    reduced = {it.var for it in block.iter_vars if it.iter_type == tirx.IterVar.CommReduce}
    found: list[int] = []

    def see(division: tirx.FloorDiv) -> None:
        size = constant(division.b)
        if size is not None and size > 1 and variables(division.a) <= reduced:
            found.append(size)

    for read in block.reads:
        for bound in read.region:
            tvm_ffi.structural_walk(bound.min, (tirx.FloorDiv, see))
    return min(found) if found else None
