"""Whether threads keep to the local memory that is theirs, and blocks of threads to their shared memory."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from .cpu.analysis import variables

_OWN = {"local": ("threadIdx", "blockIdx"), "shared": ("blockIdx",)}
"""Whose memory it is: the threads of one index have one."""


def reads_of_others(func: tirx.PrimFunc) -> str:
    """The name of a buffer in local or shared memory that is read along other threads or blocks than it was written, or nothing.

    dlight's Reduction binds what follows a sum to threads in another order than the sum where an index is a quotient (``x[i // 2]``):
    each thread then reads what others have in theirs. And it reads the only element of a slice in every block, where one has it.
    By dimension, what writes and what reads must follow the same threads (of shared memory: the same blocks).
    """
    threads: dict[tirx.Var, str] = {}
    values: dict[tirx.Var, Any] = {}
    blocks: list[s_tir.SBlock] = []
    analyzer = tvm.sym.Analyzer()

    def see_loop(loop: tirx.For) -> None:
        analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
        if loop.thread_binding is not None and loop.thread_binding.thread_tag.startswith(_OWN["local"]):
            threads[loop.loop_var] = str(loop.thread_binding.thread_tag)

    def see_block(realize: s_tir.SBlockRealize) -> None:
        values.update(zip((it.var for it in realize.block.iter_vars), realize.iter_values, strict=True))
        blocks.append(realize.block)

    def bound_to(var: tirx.Var, _: Any) -> Any:
        return values.get(var, var)

    def along(region: Any) -> tuple[frozenset[str], ...]:
        indices = [analyzer.simplify(tvm_ffi.structural_mutate(bound.min, [(tirx.Var, bound_to)])) for bound in region.region]
        own = _OWN[region.source.scope()]
        return tuple(frozenset(threads[v] for v in variables(index) if v in threads and threads[v].startswith(own)) for index in indices)

    tvm_ffi.structural_walk(func.body, [(tirx.For, see_loop), (s_tir.SBlockRealize, see_block)])
    written = {(r.source, along(r)) for block in blocks for r in block.writes if r.source.scope() in _OWN}
    for block in blocks:
        for region in block.reads:
            if region.source.scope() in _OWN and (region.source, along(region)) not in written:
                return str(region.source.name)
    return ""
