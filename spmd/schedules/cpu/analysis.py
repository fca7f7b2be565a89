"""What the CPU rules ask about a PrimFunc: its blocks, which iterator walks memory, what may be inlined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorRegion
from tvm.s_tir import Schedule, ScheduleError
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.target import Target

from spmd.ir.expressions import intrinsic

# Operations that cost tens of cycles: computed once for each value, never again by every reader.
_COSTLY = frozenset(
    name
    for group in (
        ("exp", "exp2", "exp10", "log", "log2", "log10", "log1p", "pow", "erf", "sigmoid"),
        ("sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
        ("tanh", "sinh", "cosh", "asinh", "acosh", "atanh"),
        ("call_extern", "call_pure_extern"),
    )
    for name in group
)


def is_refusal(error: Exception) -> bool:
    """Whether TVM raised it, which means that a primitive cannot be applied: some checks of its arithmetic are errors of other types."""
    return isinstance(error, ScheduleError | tvm.error.InternalError) or hasattr(error, "__tvm_ffi_error__")


@dataclass
class LoopNest:
    """A PrimFunc being scheduled: `blocks` in program order, normalized (one loop to one iterator)."""

    sch: Schedule
    blocks: list[SBlockInfo] = field(default_factory=list)

    @property
    def reductions(self) -> list[SBlockInfo]:
        """The blocks that reduce something."""
        return [block for block in self.blocks if block.is_reduction()]


WORTHWHILE = 1 << 16
"""Elements from which on a kernel is spread over threads, which have to be woken and waited for."""
SYMBOLIC = 16
"""What a symbolic size is taken for in that."""


class CPURule(ScheduleRule):
    """A rule of ours: schedules one normalized `LoopNest`, or says that it does not apply."""

    def __init__(self, parallel: bool = False):
        self.parallel = parallel
        self._much = False

    def apply(self, func: tirx.PrimFunc, target: Target, tunable: bool) -> Schedule | None:
        """The schedule of `func` for CPU `target`, or None."""
        if "cpu" not in target.keys:
            return None
        nest = normalized(func)
        if nest is None:
            return None
        self._much = sum(map(_points, nest.blocks)) >= WORTHWHILE
        return nest.sch if self.schedule(nest) else None

    def schedule(self, nest: LoopNest) -> bool:
        """Transform `nest.sch`; False where the rule does not apply. A ScheduleError means False, too."""
        raise NotImplementedError

    def parallelize(self, sch: Schedule, *loops: LoopRV) -> None:
        """Spread the outermost of these loops that turns more than once over the thread pool, where the caller asked for that and the
        kernel has work for several threads. The sums inside must not be parted from their beginnings yet.
        """
        loop = next((loop for loop in loops if not is_unit(sch.get(loop).extent)), None)
        if self.parallel and self._much and loop is not None:
            sch.parallel(loop)


def _points(block: SBlockInfo) -> int:
    """How often a block runs, with some number for each symbolic size."""
    return math.prod(constant(it.dom) or SYMBOLIC for it in block.iters)


def normalized(func: tirx.PrimFunc) -> LoopNest | None:
    """`func` with one loop for each block iterator, or None if its loops cannot be written so."""
    nest = _normalized(func)
    return None if nest is None else LoopNest(nest.sch.copy(), list(nest.blocks))


@lru_cache(maxsize=1)  # rules are tried one after another on one function
def _normalized(func: tirx.PrimFunc) -> LoopNest | None:
    sch = Schedule(func)
    if not _has_only_plain_blocks(sch):
        return None
    blocks = normalize_prim_func(sch)
    return LoopNest(sch, blocks) if blocks else None


def _has_only_plain_blocks(sch: Schedule) -> bool:
    """Normalizing drops what it does not know (opaque blocks, annotated or bound loops): don't let it."""
    root = sch.mod["main"].body
    plain = isinstance(root, s_tir.SBlockRealize)

    def see_loop(loop: tirx.For) -> None:
        nonlocal plain
        plain &= loop.kind == tirx.ForKind.SERIAL and not loop.annotations

    def see_block(block: s_tir.SBlock) -> None:
        nonlocal plain
        plain &= not block.match_buffers and all(it.iter_type in (0, 2) for it in block.iter_vars)

    tvm_ffi.structural_walk(root, [(tirx.For, see_loop), (s_tir.SBlock, see_block)])
    return plain


def inline_cheap(nest: LoopNest, keep: Iterable[str] = ()) -> None:
    """Inline spatial blocks into their readers, save those in `keep` and costly ones that would be recomputed."""
    kept = set(keep)
    sch, remaining = nest.sch, []
    for info in nest.blocks:
        if info.is_reduction() or info.name in kept or not _worth_inlining(sch, info):
            remaining.append(info)
            continue
        try:
            sch.compute_inline(info.block_rv)
        except Exception as error:
            if not is_refusal(error):
                raise
            remaining.append(info)
    nest.blocks = remaining


def _worth_inlining(sch: Schedule, info: SBlockInfo) -> bool:
    consumers = sch.get_consumers(info.block_rv)
    if not consumers or not is_costly(sch.get(info.block_rv)):
        return bool(consumers)
    own = [iterator.dom for iterator in info.iters]
    readers = [[it.dom.extent for it in sch.get(c).iter_vars] for c in consumers]
    return len(readers) == 1 and len(readers[0]) == len(own) and all(map(same, own, readers[0]))


def inline_epilogues(nest: LoopNest) -> None:
    """Merge elementwise blocks after the last reduction into one."""
    sch = nest.sch
    for info in list(nest.blocks):
        if info.is_reduction() or not sch.get_producers(info.block_rv):
            continue
        producers = sch.get_producers(info.block_rv)
        if any(is_reduction_block(sch.get(p)) or not covers(sch.get(info.block_rv), sch.get(p)) for p in producers):
            continue
        try:
            sch.reverse_compute_inline(info.block_rv)
        except Exception as error:
            if not is_refusal(error):
                raise
            continue
        nest.blocks.remove(info)


def covers(reader: s_tir.SBlock, producer: s_tir.SBlock) -> bool:
    """Whether an elementwise `reader` takes each element that is made, once. TVM moves the others to where their elements are made, too,
    with a condition that it forgets where the reader takes one element of a dimension.
    """
    made = [it.dom.extent for it in producer.iter_vars if it.iter_type == tirx.IterVar.DataPar]
    asked = [it for it in reader.iter_vars if not is_unit(it.dom.extent)]
    counts = (math.prod(extents, start=tirx.const(1, "int64")) for extents in (made, [it.dom.extent for it in asked]))
    read = [region_variables(region) for region in reader.reads if region.source.same_as(producer.writes[0].source)]
    return tvm.sym.Analyzer().can_prove_equal(*counts) and all(it.var in found for found in read for it in asked)


def is_reduction_block(block: s_tir.SBlock) -> bool:
    """Whether some iterator of `block` is reduced."""
    return any(it.iter_type == tirx.IterVar.CommReduce for it in block.iter_vars)


def is_costly_call(expr: object) -> bool:
    """Whether an expression is a call of a transcendental function."""
    return intrinsic(expr) in _COSTLY


def is_costly(node: object) -> bool:
    """Whether evaluating `node` (a block or an expression) calls a transcendental function."""
    found = False

    def see(call: tvm.ir.Call) -> None:
        nonlocal found
        found |= is_costly_call(call)

    tvm_ffi.structural_walk(node, (tvm.ir.Call, see))
    return found


def is_unit(extent: Any) -> bool:
    """Whether an extent is known to be 1."""
    return isinstance(extent, int | tirx.IntImm) and int(extent) == 1


def same(left: object, right: object) -> bool:
    """Whether two extents are known to be equal."""
    return tvm_ffi.structural_equal(constant(left) or left, constant(right) or right)


def constant(extent: Any) -> int | None:
    """The extent as a number, or None where it is symbolic."""
    return int(extent) if isinstance(extent, int | tirx.IntImm) else None


def divisor(extent: Any, limit: int) -> int:
    """The largest divisor of a known extent that is not above `limit`; 1 for a symbolic extent."""
    size = constant(extent)
    if size is None:
        return 1
    return next(d for d in range(min(limit, max(size, 1)), 0, -1) if size % d == 0)


def variables(node: object) -> set[tirx.Var]:
    """The variables that occur in an expression or a list of them."""
    found: set[tirx.Var] = set()
    tvm_ffi.structural_walk(node, (tirx.Var, found.add))
    return found


def region_variables(region: TensorRegion) -> set[tirx.Var]:
    """The variables that occur in the bounds of a read or written region."""
    found: set[tirx.Var] = set()
    for bound in region.region:
        found |= variables(bound.min)
    return found


def contiguous_variable(block: s_tir.SBlock) -> tirx.Var | None:
    """The iterator along which the block's largest operand lies contiguous in memory, if there is one."""
    own = [it.var for it in block.iter_vars]
    widest, result = 0, None
    for read in block.reads:
        used = region_variables(read)
        walked = [it for it in block.iter_vars if it.var in used and not is_unit(it.dom.extent)]
        if len(walked) <= widest or not read.region:
            continue
        inner = variables(read.region[-1].min)
        candidates = [var for var in own if var in inner]
        widest, result = len(walked), candidates[0] if len(candidates) == 1 else None
    return result


def names(sch: Schedule, blocks: Iterable[SBlockRV]) -> list[str]:
    """The blocks' names, which are unique: two handles of one block do not compare equal."""
    return [sch.get(block).name_hint for block in blocks]


def loops_of(sch: Schedule, block: SBlockRV, chosen: Sequence[tirx.Var]) -> list[LoopRV]:
    """The loops of a normalized block that drive the iterators `chosen`, in that order."""
    loops = sch.get_loops(block)
    by_var = {it.var: loop for it, loop in zip(sch.get(block).iter_vars, loops, strict=True)}
    return [by_var[var] for var in chosen]
