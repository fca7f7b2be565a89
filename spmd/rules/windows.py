"""Which rows of a split dimension each worker reads, and which of them its neighbours must send: the geometry of a halo exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Split

from .model import Exchange


@dataclass(frozen=True)
class Hop:
    """Rows that come from the worker `distance` places below (above, where it is negative): its last (first) `rows`."""

    distance: int
    rows: int
    pairs: tuple[tuple[int, int], ...]
    """Who sends to whom; empty where nobody reads these rows."""


@dataclass(frozen=True)
class Halo:
    """A dimension of `size` rows of which worker w holds `held` from ``w * held`` on, and reads `length` from ``starts[w]`` on."""

    size: int
    held: int
    starts: tuple[int, ...]
    """May be negative: rows outside of the dimension are for the reader to fill."""
    length: int

    def _reads(self, worker: int) -> tuple[int, int]:
        """The rows that exist of those that a worker reads: from, to."""
        start = self.starts[worker]
        return max(start, 0), min(start + self.length, self.size)

    @cached_property
    def below(self) -> int:
        """How many rows before its own the furthest-reaching worker reads."""
        reads = [(w, *self._reads(w)) for w in range(len(self.starts))]
        return max((max(w * self.held - start, 0) for w, start, end in reads if start < end), default=0)

    @cached_property
    def above(self) -> int:
        """How many rows after its own the furthest-reaching worker reads."""
        reads = [(w, *self._reads(w)) for w in range(len(self.starts))]
        return max((max(end - (w + 1) * self.held, 0) for w, start, end in reads if start < end), default=0)

    @cached_property
    def hops(self) -> tuple[Hop, ...]:
        """What is received, in the order of the rows; a worker's own rows stand between the positive and the negative distances."""
        lower = [self._hop(d, self.below - (d - 1) * self.held) for d in range(-(-self.below // self.held), 0, -1)]
        upper = [self._hop(-d, self.above - (d - 1) * self.held) for d in range(1, -(-self.above // self.held) + 1)]
        return (*lower, *upper)

    def _hop(self, distance: int, missing: int) -> Hop:
        rows, pairs = min(missing, self.held), []
        for target in range(len(self.starts)):
            source = target - distance
            start, end = self._reads(target)
            last = min((source + 1) * self.held, self.size)
            if 0 <= source < len(self.starts) and start < min(end, last) and max(start, source * self.held) < min(end, last):
                pairs.append((source, target))
        return Hop(distance, rows, tuple(pairs))

    @cached_property
    def shift(self) -> int | None:
        """Where in the received and own rows together every worker starts to read, if that is the same place for all and all lies there."""
        places = {start - w * self.held + self.below for w, start in enumerate(self.starts)}
        (place, *others) = places
        inside = place >= 0 and place + self.length <= self.below + self.held + self.above
        return place if inside and not others else None


@dataclass(frozen=True)
class Window:
    """A window that slides over the rows of one dimension, `into` the factor of the rows read, `out` that of the windows.

    Called with the splits of both it gives the exchanges that the halo takes, and so it can stand in a `Form`.
    """

    into: str
    out: str
    rest: str
    """The other factors of the tensor that is read."""
    size: int
    """Rows read, of all workers together."""
    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    """Padding before the first row."""
    place: int = 0
    """Which of the spatial dimensions it is."""
    transposed: bool = False
    """Whether rows are spread by the stride, and the windows are what is written: a transposed convolution."""
    rows: int = 1
    """Rows read for each element of `into`."""

    @property
    def extent(self) -> int:
        """The rows from the first to the last of a window."""
        return (self.kernel - 1) * self.dilation + 1

    def windows(self, splits: Mapping[str, Split], mesh: Mesh) -> int:
        """The windows that each worker holds."""
        return splits[self.out].local_size(mesh)

    def halo(self, splits: Mapping[str, Split], mesh: Mesh) -> Halo:
        """What each worker reads for the windows that it holds."""
        into, count = splits[self.into], self.windows(splits, mesh)
        held, workers = into.local_size(mesh) * self.rows, mesh.axis_size(*into.axes)
        if self.transposed:
            firsts = [w * count + self.before for w in range(workers)]
            # The first row whose window reaches the first element to be written; never one that starts after it.
            starts = [min(-((self.extent - 1 - first) // self.stride), first // self.stride) for first in firsts]
            reach = max(first + count - start * self.stride for first, start in zip(firsts, starts, strict=True))
            # Up to the last row that writes to the last element, and enough rows for what they write to be that long.
            length = max((reach - 1) // self.stride, -((self.extent - reach) // self.stride)) + 1
        else:
            starts = [w * count * self.stride - self.before for w in range(workers)]
            length = (count - 1) * self.stride + self.extent
        return Halo(self.size, held, tuple(starts), length)

    def __call__(self, splits: Mapping[str, Split], mesh: Mesh) -> tuple[Exchange, ...]:
        """The permutes, one a hop."""
        return tuple(Exchange("permute", f"{hop.rows} {self.rest}") for hop in self.halo(splits, mesh).hops if hop.pairs)
