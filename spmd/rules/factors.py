"""How a merged dimension is split by its factors, and back: which split of which factor a split of the dimension is."""

from __future__ import annotations

import math
from collections.abc import Mapping

from spmd.placement.axes import divided, merged
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Split

from . import measured
from .model import Piece, Rule


def piece_split(piece: Piece, rule: Rule, splits: Mapping[str, Split], mesh: Mesh) -> Split | None:
    """How a merged dimension is split by its factors.

    A factor of unknown length before the split one makes a pattern of it, one after it makes blocks; what is between two of them is a
    pattern of blocks, of which the size of the dimension does not tell how long either is: see `measured`.
    """
    here = [f for f in piece if f in splits]
    if not here or any(piece.count(f) != 1 for f in here):
        return None
    first, last = piece.index(here[0]), piece.index(here[-1])
    own = splits[here[-1]]
    if own.is_measured:
        return measured.piece_split(piece, here[0], own, rule) if len(here) == 1 else None
    if len(here) > 1:
        # Several factors split one dimension only where every worker holds one element of each but the last.
        for f in piece[first:last]:
            whole = Split(splits[f].axes, (Segment(rule.sizes[f] or 0),)) if f in splits else None
            if rule.is_unknown((f,)) or (
                rule.sizes[f] != 1 and (whole is None or splits[f] != whole or mesh.axis_size(*whole.axes) != rule.sizes[f])
            ):
                return None
        if len(own.segments) > 1 or own.is_padded(mesh) or own.repeated:
            return None
    repeated = own.repeated or rule.is_unknown(piece[:first])
    symbolic = own.symbolic or rule.is_unknown(piece[last + 1 :])
    before, between, after = rule.blocks(piece[:first]), rule.blocks(piece[first:last]), rule.blocks(piece[last + 1 :])
    major = 1 if len(here) == 1 else between
    segments = [Segment(s.size * major * after, s.unit * after) for s in own.segments] * (1 if repeated else before)
    if symbolic and repeated:
        return measured.pattern_of_blocks(piece, here[0], own, rule, mesh) if len(here) == 1 else None
    return Split(tuple(a for f in here for a in splits[f].axes), tuple(segments), symbolic, repeated)


def factor_splits(piece: Piece, split: Split, rule: Rule, mesh: Mesh) -> dict[str, Split] | None:
    """Which factors of a merged dimension this splits, and how: what `piece_split` makes this split of."""
    if split.is_measured:
        return measured.factor_splits(piece, split, rule, mesh)
    workers = mesh.axis_size(*split.axes)
    for at, factor in enumerate(piece):
        before, after, unknown = piece[:at], piece[at + 1 :], rule.is_unknown((factor,))
        if rule.sizes[factor] is None or (rule.sizes[factor] == 1 and len(piece) > 1):
            continue
        if (rule.is_unknown(after) and not split.symbolic) or (
            rule.is_unknown(before) != split.repeated and not (split.repeated and unknown)
        ):
            continue
        period = _period(split, 1 if split.repeated else rule.blocks(before))
        times = 1 if unknown or not split.repeated else rule.blocks(piece[at:]) // split.size
        if period is None or not times:
            continue
        inner: list[Segment] = []
        rest = rule.blocks(after)
        for s in period * times:
            unit = s.unit if s.unit > 1 else (s.size // workers if s.size % workers == 0 else 1)
            if s.size % rest or unit % rest:
                break
            inner.append(Segment(s.size // rest, s.unit // rest if s.unit > 1 else 1))
        else:
            made = Split(split.axes, tuple(inner), split.symbolic and unknown, split.repeated and unknown).normalized(mesh)
            if fits(rule, factor, made, mesh):
                return {factor: made}
    return None if split.repeated else _over_several(piece, split, rule, mesh)


def _period(split: Split, times: int) -> tuple[Segment, ...] | None:
    """The segments that, so many times over, are those of the split."""
    period = split.segments[: len(split.segments) // times]
    return period if period * times == split.segments else None


def _over_several(piece: Piece, split: Split, rule: Rule, mesh: Mesh) -> dict[str, Split] | None:
    """The major factor takes major axes (or parts) with as many workers as it has elements, the rest the others: 8 over an axis of 4
    becomes (2, 4) over the two parts of it.
    """
    large = [f for f in piece if rule.sizes[f] != 1 or rule.is_unknown((f,))]
    if len(large) < 2 or len(split.segments) != 1 or split.size % mesh.axis_size(*split.axes) or rule.is_unknown(large[:1]):
        return None
    major, *minor = large
    size = rule.sizes[major]
    if size is None:
        return None
    cut = divided(mesh.parts(*split.axes), size)
    if cut is None or not cut[1]:
        return None
    head, tail = (merged(parts, mesh.axes) for parts in cut)
    rest = factor_splits(tuple(minor), split.over(tail, (Segment(split.size // size),)), rule, mesh)
    return None if rest is None else {major: Split(head, (Segment(size),)), **rest}


def fits(rule: Rule, factor: str, split: Split, mesh: Mesh) -> bool:
    """Whether a factor may be split so: by what its size counts, blocks of an unknown length evenly, a pattern as often as it goes into
    what the size is known to be a multiple of.
    """
    if split.is_measured:
        return measured.fits(rule, factor, split)
    size = rule.sizes[factor]
    if factor not in rule.symbolic:
        return split.is_known and split.size == size
    if size is None or split.is_known:
        return False
    return size % split.size == 0 if split.repeated else split.size == size and not split.is_padded(mesh)


def unit_of(piece: Piece, segment: Segment, rule: Rule) -> int:
    """The unit of a segment that also cuts no element of the first factor, which holds all the others of the piece."""
    major = next((at for at, f in enumerate(piece) if rule.sizes[f] != 1), 0)
    return math.lcm(segment.unit, rule.blocks(piece[major + 1 :]) or 1)
