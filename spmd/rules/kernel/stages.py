"""How each factor of a kernel may be split: freely, or by reducing some buffers over the workers on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spmd.rules.model import Spec

from .drowning import drowns
from .model import DATA_PARALLEL, REDUCE, Block, Staged, Store

_NOTHING = Staged((), None)


def splittable(
    factors: Sequence[str],
    blocks: Sequence[Block],
    iters: Mapping[Any, tuple[str, ...]],
    buffers: Mapping[Any, Spec],
    written: Sequence[Any],
    in_place: bool,
) -> dict[str, Staged]:
    """The factors that can be split, each with what it takes; a kernel that writes in place cannot be cut in two."""
    found: dict[str, Staged] = {}
    for factor in factors:
        staged = _way(factor, blocks, iters, buffers, written, in_place)
        if staged is not None:
            found[factor] = staged
    return found


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


def _way(
    factor: str,
    blocks: Sequence[Block],
    iters: Mapping[Any, tuple[str, ...]],
    buffers: Mapping[Any, Spec],
    written: Sequence[Any],
    in_place: bool,
) -> Staged | None:
    """What splitting `factor` takes, or None where it cannot be split."""

    def holds(buffer: Any) -> bool:
        return any(factor in piece for dim in buffers[buffer] for piece in dim)

    reduced: dict[Any, str] = {}
    for block in blocks:
        mine = [v for v in block.realize.block.iter_vars if factor in iters[v.var]]
        if not mine:
            if any(map(holds, block.writes)):
                return None
            continue
        if len(mine) > 1:
            return None  # each worker would see only the pairs of which it holds both
        if mine[0].iter_type == DATA_PARALLEL:
            if not all(map(holds, block.writes)):
                return None
        elif mine[0].iter_type == REDUCE:
            if block.stores is None or any(s.kind is None or holds(s.buffer) for s in block.stores):
                return None
            if any(_is_ordered(s) and not drowns(s, block, blocks, iters, written) for s in block.stores):
                return None
            reduced.update({s.buffer: s.kind for s in block.stores if s.kind is not None})
        else:
            return None
    if not any(factor in iters[v.var] for b in blocks for v in b.realize.block.iter_vars) and not any(map(holds, written)):
        return None
    if not reduced:
        if not any(map(holds, written)):
            return None
        return _NOTHING
    read = [b for block in blocks for b in block.reads if not any(b.same_as(w) for w in block.writes)]
    last = [b for b in reduced if b in written and not any(b.same_as(r) for r in read)]
    if len(written) == 1 and len(last) == len(reduced) == 1 and not in_place:
        return Staged((), reduced[last[0]])
    if len(written) == 1 and last and not in_place:
        # The one output is reduced last of all, and is left to whoever reads it.
        way = Staged(tuple((b, k) for b, k in reduced.items() if b not in last), reduced[last[0]])
    else:
        way = Staged(tuple(reduced.items()), None)
    if in_place or levels(blocks, [b for b, _ in way.reduced]) is None:
        return None
    return way


def _is_ordered(store: Store) -> bool:
    """Whether it compares floats: the extreme is that of what follows the last NaN."""
    return store.kind in ("max", "min") and "float" in str(store.buffer.ty.dtype)
