"""Where a tensor lives: for each dimension the mesh axes that split it, and the axes over which the value is partial.

A dimension may be split by *segments*: seen as consecutive pieces, each split evenly, worker r holding the r-th part of every
piece. One segment is an ordinary split; unequal ones are fused weights such as QKV (``8192|1024|1024``). A segment has a
*unit*: workers hold whole units (a head, a quantization group), and what does not fill the last worker is padding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from . import checks
from .axes import AXIS
from .checks import told
from .errors import ShardingError
from .mesh import Mesh

_MOST = 1 << 10
PARTIAL_KINDS = ("sum", "max", "min", "prod")
_TEXT = re.compile(rf"\[(.*)\]((?: (?:{'|'.join(PARTIAL_KINDS)})@{AXIS})*)")
_FIELD = re.compile(rf"-|{AXIS}(?:\+{AXIS})*(?::\d+(?:~\d+)?(?:\|\d+(?:~\d+)?)*\*?)?")


@dataclass(frozen=True)
class Segment:
    """`size` consecutive elements of a dimension, dealt out to workers in whole `unit`s."""

    size: int
    unit: int = 1

    @property
    def wrong(self) -> str:
        """What no segment can have."""
        return "" if self.size >= 0 and self.unit >= 1 else "a segment has 0 elements or more, in units of 1 or more"

    def local(self, workers: int) -> int:
        """The elements that each worker holds of this segment, padding included."""
        return -(-self.size // (self.unit * workers)) * self.unit


@dataclass(frozen=True)
class Split:
    """How one dimension is split: over which mesh axes (major first), and by which segments."""

    axes: tuple[str, ...]
    segments: tuple[Segment, ...]
    symbolic: bool = False
    """Whether the size is known only when the program runs: it is then counted in blocks, as many as it is said to be divisible by."""

    @property
    def wrong(self) -> str:
        """What no split can have."""
        return "" if self.axes and self.segments else "a split has an axis and a segment"

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.axes, self.segments, self.symbolic))

    def __reduce__(self) -> tuple[Any, ...]:
        return Split, (self.axes, self.segments, self.symbolic)  # the hash of a text is another one in another process

    @property
    def size(self) -> int:
        """The global size of the dimension."""
        return sum(s.size for s in self.segments)

    def local_size(self, mesh: Mesh) -> int:
        """The size that each worker holds, padding included."""
        return self._local_size(mesh.axis_size(*self.axes))

    @lru_cache(maxsize=1 << 14)  # noqa: B019  splits are few, small, and asked for all the time
    def _local_size(self, workers: int) -> int:
        return sum(s.local(workers) for s in self.segments)

    @property
    def axis(self) -> str:
        """All its axes as one, as a collective over them names it: ``"dp+tp"``."""
        return self.axes[0] if len(self.axes) == 1 else "+".join(self.axes)

    def is_padded(self, mesh: Mesh) -> bool:
        """Whether some worker holds padding."""
        return self.local_size(mesh) * mesh.axis_size(*self.axes) != self.size

    def outer(self, count: int, mesh: Mesh) -> Split | None:
        """The split over the `count` major axes of which this one is a refinement: what their workers hold together."""
        if count in (0, len(self.axes)):
            return self if count else None
        inner, workers = mesh.axis_size(*self.axes[count:]), mesh.axis_size(*self.axes)
        segments = tuple(Segment(s.size, max(s.local(workers) * inner, 1)) for s in self.segments)
        return Split(self.axes[:count], segments, self.symbolic).normalized(mesh)

    def inner(self, count: int, mesh: Mesh) -> Split:
        """The split without its `count` major axes: how their workers split among them what `outer` says that they hold."""
        outer = self.outer(count, mesh)
        if outer is None:
            return self
        workers = mesh.axis_size(*outer.axes)
        return Split(self.axes[count:], tuple(Segment(s.local(workers)) for s in outer.segments), self.symbolic)

    def is_even(self, mesh: Mesh) -> bool:
        """Whether every segment is known to fall into equal parts, whatever their unit."""
        workers = mesh.axis_size(*self.axes)
        return not self.symbolic and all(s.unit == 1 and s.size % workers == 0 for s in self.segments)

    def minor(self, count: int, mesh: Mesh) -> Split:
        """What the workers along the `count` major axes of an even split hold together: they have the same part of every piece."""
        if not count:
            return self
        pieces = mesh.axis_size(*self.axes[:count])
        return Split(self.axes[count:], tuple(Segment(s.size // pieces) for s in self.segments for _ in range(pieces)))

    def outermost(self, count: int, mesh: Mesh) -> Split:
        """How the workers along the `count` major axes of an even split deal out among them what `minor` says that they hold."""
        rest = mesh.axis_size(*self.axes[count:])
        return Split(self.axes[:count], tuple(Segment(s.size // rest) for s in self.segments))

    def at(self, size: int) -> Split:
        """The split of a dimension that turns out to have this size."""
        if not self.symbolic:
            return self
        if size % self.size:
            way_out = "Pass one that is, or shard with another `divisible`."
            raise ShardingError("a split of a symbolic size", f"the size {size} is no multiple of {self.size}, as was said", way_out)
        return Split(self.axes, (Segment(size),))

    def normalized(self, mesh: Mesh) -> Split:
        """The same placement with the smallest units: where a segment divides evenly, its unit says nothing."""
        workers = mesh.axis_size(*self.axes)
        segments = tuple(Segment(s.size) if s.size % (s.unit * workers) == 0 else s for s in self.segments)
        return Split(self.axes, segments, self.symbolic)

    def __str__(self) -> str:
        if self.symbolic:
            return f"{'+'.join(self.axes)}:{self.size}*"
        plain = len(self.segments) == 1 and self.segments[0].unit == 1
        sizes = "|".join(f"{s.size}~{s.unit}" if s.unit > 1 else f"{s.size}" for s in self.segments)
        return "+".join(self.axes) + ("" if plain else f":{sizes}")


@dataclass(frozen=True)
class Sharding:
    """The placement of one tensor: a `Split` or None (whole) for each dimension, and ``(axis, kind)`` for each partial axis.

    ``str()`` gives ``[tp:8192|1024|1024, -]`` or ``[-, -] sum@tp``; `parse` reads it back.
    """

    dims: tuple[Split | None, ...]
    partial: tuple[tuple[str, str], ...] = ()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Shardings are looked up all the time; the hash of their parts is worked out once."""
        return hash((self.dims, self.partial))

    def __reduce__(self) -> tuple[Any, ...]:
        return Sharding, (self.dims, self.partial)

    @classmethod
    def replicated(cls, rank: int) -> Sharding:
        """Every worker holds the whole value."""
        if not isinstance(rank, int) or not 0 <= rank < _MOST:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("Sharding.replicated", f"it takes a number of dimensions, and got {told(rank)}")
        return _replicated(rank)

    @cached_property
    def is_replicated(self) -> bool:
        """Whether every worker holds the whole value."""
        return not self.partial and all(d is None for d in self.dims)

    @cached_property
    def is_symbolic(self) -> bool:
        """Whether it splits a size that is known only when the program runs."""
        return any(d is not None and d.symbolic for d in self.dims)

    def axes(self) -> tuple[str, ...]:
        """Every mesh axis that this sharding uses."""
        return tuple(a for d in self.dims if d for a in d.axes) + tuple(a for a, _ in self.partial)

    def is_padded(self, mesh: Mesh) -> bool:
        """Whether some worker holds padding."""
        if not isinstance(mesh, Mesh):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("Sharding.is_padded", f"it takes a Mesh, and got {told(mesh)}")
        return any(d is not None and d.is_padded(mesh) for d in self.dims)

    def normalized(self, mesh: Mesh) -> Sharding:
        """The same placement in its one canonical form."""
        if not isinstance(mesh, Mesh):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("Sharding.normalized", f"it takes a Mesh, and got {told(mesh)}")
        return Sharding(tuple(d and d.normalized(mesh) for d in self.dims), self.partial)

    def at(self, shape: tuple[int, ...]) -> Sharding:
        """The placement of a tensor that turns out to have this shape."""
        if not self.is_symbolic or len(shape) != len(self.dims):
            return self
        return Sharding(tuple(d and d.at(size) for d, size in zip(self.dims, shape, strict=True)), self.partial)

    def local_shape(self, shape: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
        """The shape that each worker holds of a tensor of the global `shape`, padding included."""
        if not isinstance(shape, tuple | list) or not isinstance(mesh, Mesh):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("Sharding.local_shape", f"it takes a shape and a Mesh, and got {told(shape)} and {told(mesh)}")
        if len(shape) != len(self.dims):
            raise ShardingError(f"Sharding {self}", f"a tensor of shape {shape} has {len(shape)} dimensions, not {len(self.dims)}")
        for i, (size, split) in enumerate(zip(shape, self.dims, strict=True)):
            if split is not None and split.size != size:
                raise ShardingError(f"Sharding {self}", f"dimension {i} has size {size}, and the segments add up to {split.size}")
        return tuple(size if d is None else d.local_size(mesh) for size, d in zip(shape, self.dims, strict=True))

    def __str__(self) -> str:
        text = "[" + ", ".join("-" if d is None else str(d) for d in self.dims) + "]"
        return " ".join([text, *(f"{kind}@{axis}" for axis, kind in self.partial)])

    @classmethod
    def parse(cls, text: str, shape: tuple[int, ...]) -> Sharding:
        """Read back ``str(sharding)`` for a tensor of the global `shape` (-1 where a size is symbolic)."""
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        shape = checks.shape("Sharding.parse(), shape", shape)
        fields = [] if match is None or not match[1] else match[1].split(", ")
        if match is None or len(fields) != len(shape) or not all(_FIELD.fullmatch(field) for field in fields):
            raise ShardingError("Sharding.parse", f"{text!r} is no sharding of {len(shape)} dimensions", "It reads like '[tp, -] sum@tp'.")
        dims: list[Split | None] = []
        for field, size in zip(fields, shape, strict=True):
            axes, _, sizes = field.partition(":")
            symbolic = sizes.endswith("*")
            pieces = [tuple(map(int, s.split("~"))) for s in sizes.removesuffix("*").split("|")] if sizes else [(size,)]
            dims.append(None if field == "-" else Split(tuple(axes.split("+")), tuple(Segment(*p) for p in pieces), symbolic))
        partial = tuple((axis, kind) for kind, axis in (p.split("@") for p in match[2].split()))
        return cls(tuple(dims), partial)


@lru_cache(maxsize=64)
def _replicated(rank: int) -> Sharding:
    return Sharding((None,) * rank)
