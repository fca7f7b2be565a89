"""How a merged dimension of unknown size is split by a length: in units, whose last ones are padding, or as a pattern of blocks.

What stands under a factor that is dealt out in units makes the units larger. A length that is split under a number of repetitions that
nobody knows is a pattern of blocks; what stands under that makes the pattern longer. The length is what tells one such split of a
dimension from another: in ``n * s``, n blocks of s from s blocks of n.
"""

from __future__ import annotations

from spmd.placement.length import Length
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Split

from .model import Piece, Rule


def piece_split(piece: Piece, factor: str, own: Split, rule: Rule) -> Split | None:
    """How a merged dimension is split where this factor of it, and no other, is split by a length."""
    before, after = _around(piece, factor)
    under = _length(after, rule)
    if own.length is None or under is None:
        return None
    if own.uneven:
        return Split.in_units(own.axes, own.length.times(under)) if all(rule.sizes[f] == 1 for f in before) else None
    return _pattern(own, own.size * rule.blocks(after), own.length.times(under))


def pattern_of_blocks(piece: Piece, factor: str, own: Split, rule: Rule, mesh: Mesh) -> Split | None:
    """How a merged dimension is split where this factor of it, and no other, is split evenly, under repetitions of an unknown number; and
    is of unknown length, or stands over what is.
    """
    before, after = _around(piece, factor)
    length = _length((factor, *after), rule)
    even = not own.repeated and len(own.axes) == len(own.segments) == 1 and own.size > 0 and not own.is_padded(mesh)
    if length is None or not even or not rule.is_unknown(before) or not (own.symbolic or rule.is_unknown(after)):
        return None
    return _pattern(own, own.size * rule.blocks(after), length)


def factor_splits(piece: Piece, split: Split, rule: Rule, mesh: Mesh) -> dict[str, Split] | None:
    """The factor of a merged dimension that is split where the dimension is split by a length: the one of which a split makes this one."""
    for factor in piece:
        after = _around(piece, factor)[1]
        under, count = _length(after, rule), rule.blocks(after)
        if split.length is None or under is None or not count or split.size % count:
            continue
        rest = split.length.without(under)
        made = [] if rest is None else [Split.in_units(split.axes, rest) if split.uneven else _pattern(split, split.size // count, rest)]
        for own in made:
            if fits(rule, factor, own) and piece_split(piece, factor, own, rule) == split:
                return {factor: own}
        own = Split(split.axes, (Segment(split.size // count),), symbolic=factor in rule.symbolic)
        if rule.sizes[factor] == own.size and pattern_of_blocks(piece, factor, own, rule, mesh) == split:
            return {factor: own}
    return None


def fits(rule: Rule, factor: str, split: Split) -> bool:
    """Whether a factor may be split so by a length: it is a multiple of that."""
    length = rule.lengths.get(factor, Length())
    rest = length.without(split.length) if split.length is not None else None
    if split.uneven:
        return factor in rule.uneven and rest is not None
    return factor in rule.symbolic and (rule.sizes[factor] or 0) % split.size == 0 and rest is not None and rest != Length()


def _around(piece: Piece, factor: str) -> tuple[Piece, Piece]:
    """What stands before and after a factor."""
    at = piece.index(factor)
    return piece[:at], piece[at + 1 :]


def _pattern(own: Split, blocks: int, length: Length) -> Split:
    return Split(own.axes, (Segment(blocks),), symbolic=True, repeated=True, length=length)


def _length(piece: Piece, rule: Rule) -> Length | None:
    """The length of a product of factors, of which it is known how they are written."""
    total = Length()
    for f in piece:
        size = rule.sizes[f]
        one = rule.lengths.get(f) if rule.is_unknown((f,)) else Length(size) if size else None
        if one is None:
            return None
        total = total.times(one)
    return total
