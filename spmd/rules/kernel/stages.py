"""How each factor of a kernel may be split: freely, or by reducing some buffers over the workers on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spmd.rules.model import Spec

from .drowning import drowns
from .model import DATA_PARALLEL, REDUCE, Block, Staged, Store


@dataclass(frozen=True)
class Program:
    """The blocks of a kernel with the factors of their variables and buffers."""

    blocks: Sequence[Block]
    iters: Mapping[Any, tuple[str, ...]]
    """Variable of a block -> its factors."""
    buffers: Mapping[Any, Spec]
    written: Sequence[Any]
    """The buffers that are results."""
    in_place: bool
    """Whether it writes into something that it is given."""

    def holds(self, buffer: Any, factor: str) -> bool:
        """Whether a dimension of the buffer has the factor."""
        return any(factor in piece for dim in self.buffers[buffer] for piece in dim)

    def of_factor(self, block: Block, factor: str) -> list[Any]:
        """The variables of a block that have the factor."""
        return [v for v in block.realize.block.iter_vars if factor in self.iters[v.var]]


def splittable(factors: Sequence[str], program: Program) -> dict[str, Staged]:
    """The factors that can be split, each with what it takes."""
    found = {factor: _staged(factor, program) for factor in factors}
    return {factor: staged for factor, staged in found.items() if staged is not None}


def final_reduction(allowed: Mapping[str, Staged]) -> str | None:
    """The kind of the reductions that end the kernel, where they are all of one kind."""
    kinds = {s.partial for s in allowed.values() if s.partial is not None and not s.reduced}
    return next(iter(kinds)) if len(kinds) == 1 else None


def levels(blocks: Sequence[Block], reduced: Sequence[Any]) -> list[int] | None:
    """Which of the kernels, cut after the buffers in `reduced`, each block goes into; None where it cannot be cut there."""
    made: dict[Any, tuple[int, bool]] = {}
    found: list[int] = []
    of_top: dict[int, int] = {}
    for block in blocks:
        before = [made[b] for b in block.reads if b in made and not any(b.same_as(w) for w in block.writes)]
        level = max((at + cut for at, cut in before), default=0)
        if any(b in made for b in block.writes) and len(reduced):
            return None  # written twice: what a reader sees would depend on the order of the kernels
        for b in block.writes:
            made[b] = (level, any(b.same_as(r) for r in reduced))
        if of_top.setdefault(block.top, level) != level:
            return None  # one loop nest around blocks of two kernels
        found.append(level)
    return found


def _staged(factor: str, program: Program) -> Staged | None:
    """What splitting `factor` takes, or None where it cannot be split."""
    written = program.written
    if not any(program.holds(b, factor) for b in written) and not any(program.of_factor(block, factor) for block in program.blocks):
        return None
    reduced: dict[Any, str] = {}
    for block in program.blocks:
        found = _reductions(factor, block, program)
        if found is None:
            return None
        reduced.update(found)
    if not reduced:
        return Staged((), None) if any(program.holds(b, factor) for b in written) else None
    if program.in_place:  # a kernel that writes in place cannot be cut in two
        return None
    read = [b for block in program.blocks for b in block.reads if not any(b.same_as(w) for w in block.writes)]
    last = [b for b in reduced if b in written and not any(b.same_as(r) for r in read)]
    if len(written) == 1 and last:
        # The one output is reduced last of all, and is left to whoever reads it.
        staged = Staged(tuple((b, k) for b, k in reduced.items() if b not in last), reduced[last[0]])
    else:
        staged = Staged(tuple(reduced.items()), None)
    can_be_cut = not staged.reduced or levels(program.blocks, [b for b, _ in staged.reduced]) is not None
    return staged if can_be_cut else None


def _reductions(factor: str, block: Block, program: Program) -> dict[Any, str] | None:
    """The buffers that a block leaves to be reduced where `factor` is split, with the kinds; None where the block cannot be split so."""
    mine = program.of_factor(block, factor)
    holding = [program.holds(b, factor) for b in block.writes]
    if not mine:
        return None if any(holding) else {}
    if len(mine) > 1:
        return None  # each worker would see only the pairs of which it holds both
    if mine[0].iter_type == DATA_PARALLEL:
        return {} if all(holding) else None
    if mine[0].iter_type != REDUCE or block.stores is None:
        return None
    if any(s.kind is None or program.holds(s.buffer, factor) for s in block.stores):
        return None
    if any(_is_ordered(s) and not drowns(s, block, program.blocks, program.iters, program.written) for s in block.stores):
        return None
    return {s.buffer: s.kind for s in block.stores if s.kind is not None}


def _is_ordered(store: Store) -> bool:
    """Whether it compares floats: the extreme is that of what follows the last NaN."""
    return store.kind in ("max", "min") and "float" in str(store.buffer.ty.dtype)
