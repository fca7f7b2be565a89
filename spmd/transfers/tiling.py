"""How a dimension falls into pieces that are padded, whatever workers it is split over."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from spmd.placement.length import Length
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Split


@dataclass(frozen=True)
class Tiling:
    """The segments of a split as ``(size, size with padding)``. Each of W workers holds a W-th of every one, padding included.

    Splits of one tiling over more and over fewer workers refine one another: what is gathered or cut between them is a whole part of
    each segment, and nothing else moves.
    """

    pieces: tuple[tuple[int, int], ...]
    symbolic: bool = False
    repeated: bool = False
    uneven: bool = False
    length: Length | None = None
    workers: int = 0
    """Over how many workers it must be split, and by one axis, where a length is dealt out that is known when the program runs; 0: any."""
    of: Split | None = field(default=None, compare=False, repr=False)
    """A split that it is the tiling of."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.pieces, self.symbolic, self.repeated, self.uneven, self.length, self.workers))

    @classmethod
    def by(cls, split: Split, mesh: Mesh) -> Tiling:
        """That of a split."""
        workers = mesh.axis_size(*split.axes)
        pieces = tuple([(s.size, s.local(workers) * workers) for s in split.segments])
        fixed = workers if split.is_measured else 0
        return cls(pieces, split.symbolic, split.repeated, split.uneven, split.length, fixed, split)

    @cached_property
    def size(self) -> int:
        """What it counts in all."""
        return sum(size for size, _ in self.pieces)

    @cached_property
    def padded(self) -> int:
        """The same with padding."""
        return sum(padded for _, padded in self.pieces)

    @cached_property
    def is_padded(self) -> bool:
        """Whether there is any padding."""
        return any(size != padded for size, padded in self.pieces)

    def fits(self, workers: int) -> bool:
        """Whether so many workers can hold equal parts of it."""
        return workers == self.workers if self.workers else all(padded % workers == 0 for _, padded in self.pieces)

    def split(self, axes: tuple[str, ...], cuts: int, mesh: Mesh) -> Split:
        """The split over `axes` by this tiling, of which each piece is cut into `cuts` pieces first."""
        workers = mesh.axis_size(*axes)
        units = [(size // cuts, 1 if size == padded else padded // workers) for size, padded in self.pieces]
        segments = tuple([Segment(size, max(unit, 1)) for size, unit in units for _ in range(cuts)])
        found = Split(axes, segments, self.symbolic, self.repeated, self.uneven, self.length)
        return found if cuts > 1 else found.normalized(mesh)

    def scaled(self, by: int) -> Tiling:
        """The same with all sizes divided."""
        return replace(self, pieces=tuple([(size // by, padded // by) for size, padded in self.pieces]))


def in_proportion(tilings: Iterable[Tiling], workers: int) -> tuple[Tiling, ...]:
    """The tilings of one dimension divided by what no number of workers up to `workers` can tell: alike dimensions become equal."""
    tilings = tuple(tilings)
    common = math.gcd(*[n for tiling in tilings for piece in tiling.pieces for n in piece])
    by = common // workers if common and common % workers == 0 else 1
    return tuple([tiling.scaled(by) for tiling in tilings]) if by > 1 else tilings
