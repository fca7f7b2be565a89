"""Where a tensor lives: for each dimension the mesh axes that split it, and the axes over which the value is partial.

A dimension may be split by *segments*: seen as consecutive pieces, each split evenly, worker r holding the r-th part of every
piece. One segment is an ordinary split; unequal ones are fused weights such as QKV (``8192|1024|1024``). A segment has a
*unit*: workers hold whole units (a head, a quantization group), and what does not fill the last worker is padding.

Of a size that is known only when the program runs, segments count something else, and all that is done with them stays the same:

- `symbolic`, ``tp:8*``: they count *blocks*, of a length that nobody knows. The dimension is ``size`` blocks, each held by one worker,
  and where blocks are no factor of the program's own (the 5 heads of ``(5, n)``) but a part of a size, they are dealt out evenly.
- `repeated`, ``tp:*8``: they are a *pattern* that follows itself as often as the dimension has room for it. Each worker holds its
  part of every repetition: of ``(n, 8)`` heads seen as ``n * 8``, n times ``8 / workers``. A pattern may be padded as a dimension may.
- `symbolic` and `repeated`, ``tp:*8*s``: a pattern of the `length` s, which nobody knows either, in 8 blocks.
- `uneven`, ``tp:~1``: nobody said by what the size can be divided. It is one segment in units of a `length`, dealt out as such a segment
  of a known size is: each worker holds the units that there are divided by the workers, rounded up, and the last ones padding.

`Split.at` is what either means once the size is known, a split by plain segments; every other function here commutes with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError

from .axes import AXIS
from .html import sharding_html
from .length import Length
from .mesh import Mesh

_MOST = 1 << 10
PARTIAL_KINDS = ("sum", "max", "min", "prod")
_TEXT = re.compile(rf"\[(.*)\]((?: (?:{'|'.join(PARTIAL_KINDS)})@{AXIS})*)")
_ONE = r"\d+(?:~\d+)?"
_RUN = rf"{_ONE}(?:x\d+)?|\({_ONE}(?:\|{_ONE})*\)x\d+"
_SIZES = rf"(?:{_RUN})(?:\|(?:{_RUN}))*"
_LENGTH = r"\w+(?:\.\w+)*"
_FIELD = re.compile(rf"-|{AXIS}(?:\+{AXIS})*(?::(?:\*{_SIZES}(?:\*{_LENGTH})?|{_SIZES}\*?|~{_LENGTH}))?")
_MOST_WRITTEN = 8
"""Segments that are written one by one; more are written as runs, ``8x512``."""
_LONGEST_PATTERN = 16


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


def runs(segments: Sequence[Segment]) -> list[tuple[tuple[Segment, ...], int]]:
    """The segments as patterns and how many times each is repeated: a factor under other factors makes one pattern, many times."""
    found: list[tuple[tuple[Segment, ...], int]] = []
    at, segments = 0, tuple(segments)
    while at < len(segments):
        pattern, most = segments[at : at + 1], 1
        for length in range(1, min(_LONGEST_PATTERN, (len(segments) - at) // 2) + 1):
            tried, count = segments[at : at + length], 1
            while segments[at + count * length : at + (count + 1) * length] == tried:
                count += 1
            if count > 1 and count * length > most * len(pattern):
                pattern, most = tried, count
        found.append((pattern, most))
        at += most * len(pattern)
    return found


def segments_text(segments: Sequence[Segment]) -> str:
    """``8192|1024|1024``, a unit after ``~``; many as runs of equal ones, ``8x512`` or ``(3|5)x128``."""
    found = [((s,), 1) for s in segments] if len(segments) <= _MOST_WRITTEN else runs(segments)
    texts: list[str] = []
    for pattern, count in found:
        text = "|".join(f"{s.size}~{s.unit}" if s.unit > 1 else f"{s.size}" for s in pattern)
        texts.append(text if count == 1 else f"({text})x{count}" if len(pattern) > 1 else f"{text}x{count}")
    return "|".join(texts)


def segments_of(text: str) -> tuple[Segment, ...]:
    """Read back `segments_text`."""
    found: list[Segment] = []
    for run in re.finditer(_RUN, text):
        pattern, _, count = run[0].partition(")x") if run[0].startswith("(") else run[0].partition("x")
        found += [Segment(*map(int, s.split("~"))) for s in pattern.lstrip("(").split("|")] * int(count or 1)
    return tuple(found)


def _units(length: Length) -> tuple[Segment, ...]:
    """A dimension of unknown size in units."""
    return (Segment(length.number, length.number),)


@dataclass(frozen=True)
class Split:
    """How one dimension is split: over which mesh axes (major first), and by which segments."""

    axes: tuple[str, ...]
    segments: tuple[Segment, ...]
    symbolic: bool = False
    """Whether the size is known only when the program runs, and counted in blocks of an unknown length."""
    repeated: bool = False
    """Whether the segments are a pattern that is repeated an unknown number of times."""
    uneven: bool = False
    """Whether the size is known only when the program runs, and dealt out in units, with padding."""
    length: Length | None = None
    """The length of a unit, or of a pattern of blocks."""

    @property
    def wrong(self) -> str:
        """What no split can have."""
        if not self.axes or not self.segments:
            return "a split has an axis and a segment"
        if self.is_measured and (len(self.axes) > 1 or len(self.segments) > 1):
            return "by a length a size is dealt out over one axis, in one piece"
        if (self.length is not None) != self.is_measured or (self.uneven and (self.symbolic or self.repeated)):
            return "units and patterns of blocks have a length, and nothing else has"
        return ""

    @property
    def is_measured(self) -> bool:
        """Whether it is dealt out by a length."""
        return self.uneven or (self.symbolic and self.repeated)

    @classmethod
    def in_units(cls, axes: tuple[str, ...], unit: Length) -> Split:
        """The split of an unknown size in units that nobody said the workers can share evenly."""
        return cls(axes, _units(unit), uneven=True, length=unit)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.axes, self.segments, self.symbolic, self.repeated, self.uneven, self.length))

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.axes, self.segments, self.symbolic, self.repeated, self.uneven, self.length)
        return Split, fields  # the hash of a text is another one in another process

    def over(self, axes: tuple[str, ...], segments: tuple[Segment, ...]) -> Split:
        """Other axes and segments of the same kind of size."""
        return Split(axes, segments, self.symbolic, self.repeated, self.uneven, self.length)

    @property
    def is_known(self) -> bool:
        """Whether it says the size of the dimension."""
        return not self.symbolic and not self.repeated and not self.uneven

    @property
    def size(self) -> int:
        """The global size of the dimension; where that is not known, the number of its blocks, the size of its pattern, or of a unit."""
        return sum(s.size for s in self.segments)

    def local_size(self, mesh: Mesh) -> int:
        """The size that each worker holds, padding included; in what `size` counts."""
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
        return self.over(self.axes[:count], segments).normalized(mesh)

    def inner(self, count: int, mesh: Mesh) -> Split:
        """The split without its `count` major axes: how their workers split among them what `outer` says that they hold."""
        outer = self.outer(count, mesh)
        if outer is None:
            return self
        workers = mesh.axis_size(*outer.axes)
        return self.over(self.axes[count:], tuple(Segment(s.local(workers)) for s in outer.segments))

    def is_even(self, mesh: Mesh) -> bool:
        """Whether every segment is known to fall into equal parts, whatever their unit."""
        workers = mesh.axis_size(*self.axes)
        return all(s.unit == 1 and s.size % workers == 0 for s in self.segments)

    def minor(self, count: int, mesh: Mesh) -> Split:
        """What the workers along the `count` major axes of an even split hold together: they have the same part of every piece."""
        if not count:
            return self
        pieces = mesh.axis_size(*self.axes[:count])
        return self.over(self.axes[count:], tuple(Segment(s.size // pieces) for s in self.segments for _ in range(pieces)))

    def outermost(self, count: int, mesh: Mesh) -> Split:
        """How the workers along the `count` major axes of an even split deal out among them what `minor` says that they hold."""
        rest = mesh.axis_size(*self.axes[count:])
        return self.over(self.axes[:count], tuple(Segment(s.size // rest) for s in self.segments))

    def at(self, size: int) -> Split:
        """The split of a dimension that turns out to have this size."""
        if self.is_known:
            return self
        if self.length is not None and self.length.names:
            what = f"the size {size} does not tell the length {self.length} in it"
            raise ShardingError("a split of a symbolic size", what, "Keep what has it whole where it is an argument or a result.")
        if size % self.size:
            way_out = "Pass one that is, or shard with another `divisible`."
            raise ShardingError("a split of a symbolic size", f"the size {size} is no multiple of {self.size}, as was said", way_out)
        if self.uneven:
            return Split(self.axes, (Segment(size, self.size),))
        if self.length is not None:
            return Split(self.axes, (Segment(self.length.number),) * (size // self.length.number) or (Segment(0),))
        times = size // self.size
        if self.repeated:
            return Split(self.axes, self.segments * times or (Segment(0),))
        return Split(self.axes, tuple(Segment(s.size * times, max(s.unit * times, 1)) for s in self.segments))

    def told(self, sizes: Mapping[str, int]) -> Split:
        """The split with numbers in the place of the symbolic sizes in its length."""
        if self.length is None or not self.length.names:
            return self
        length = Length(math.prod((sizes[name] for name in self.length.names), start=self.length.number))
        segments = _units(length) if self.uneven else self.segments
        return Split(self.axes, segments, self.symbolic, self.repeated, self.uneven, length)

    def whole_size(self, local: int, mesh: Mesh) -> int:
        """The global size of a dimension of which each worker holds `local` elements; of an uneven one these do not tell it."""
        return self.size if self.is_known else local // self.local_size(mesh) * self.size

    def held_size(self, size: int, mesh: Mesh, unit: int = 1) -> int:
        """What each worker holds of a dimension that turns out to have this size, rounded up where it is no multiple; of an uneven one in
        units of so many elements.
        """
        if self.uneven:
            return -(-size // (unit * mesh.axis_size(*self.axes))) * unit
        return self.local_size(mesh) if self.is_known else -(-size * self.local_size(mesh) // self.size)

    def normalized(self, mesh: Mesh) -> Split:
        """The same placement with the smallest units and pattern: where a segment divides evenly, its unit says nothing, and a pattern
        that is another one several times over is that one.
        """
        workers = mesh.axis_size(*self.axes)
        segments = tuple(Segment(s.size) if s.size % (s.unit * workers) == 0 else s for s in self.segments)
        if self.repeated and len(segments) > 1:
            count = len(segments)
            period = next(p for p in range(1, count + 1) if count % p == 0 and segments[:p] * (count // p) == segments)
            segments = segments[:period]
        return self.over(self.axes, segments)

    def __str__(self) -> str:
        plain = self.is_known and len(self.segments) == 1 and self.segments[0].unit == 1
        text = f"{'*' if self.repeated else ''}{segments_text(self.segments)}{'*' if self.symbolic else ''}"
        text = f"~{self.length}" if self.uneven else text + str(self.length or "")
        return "+".join(self.axes) + ("" if plain else f":{text}")


@dataclass(frozen=True)
class Sharding:
    """The placement of one tensor: a `Split` or None (whole) for each dimension, and ``(axis, kind)`` for each partial axis.

    ``str()`` gives ``[tp:8192|1024|1024, -]`` or ``[-, -] sum@tp``; `parse` reads it back.
    """

    dims: tuple[Split | None, ...]
    partial: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.dims, tuple) or not isinstance(self.partial, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            what = f"it takes a tuple of Split or None, and one of partial axes, and got {told(self.dims)} and {told(self.partial)}"
            raise ShardingError("Sharding", what, "Sharding.parse('[tp, -]', shape) reads one.")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Shardings are looked up all the time; the hash of their parts is worked out once."""
        return hash((self.dims, self.partial))

    def __reduce__(self) -> tuple[Any, ...]:
        return Sharding, (self.dims, self.partial)

    def __repr__(self) -> str:
        return f"<Sharding {self}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a line a dimension."""
        dims = [("", "") if d is None else (" and ".join(d.axes), str(d).partition(":")[2] or str(d.size)) for d in self.dims]
        return sharding_html(str(self), dims, self.partial)

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
        return any(d is not None and not d.is_known for d in self.dims)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The symbolic sizes in lengths by which it splits others: its shape alone does not tell them."""
        return tuple(name for d in self.dims if d is not None and d.length is not None for name in d.length.names)

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

    @door(sizes=checks.sizes)
    def told(self, sizes: Mapping[str, int]) -> Sharding:
        """The placement with numbers in the place of the symbolic sizes in lengths."""
        return Sharding(tuple(d and d.told(sizes) for d in self.dims), self.partial) if self.names else self

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
            dims.append(None if field == "-" else _parsed(tuple(axes.split("+")), sizes, size))
        partial = tuple((axis, kind) for kind, axis in (p.split("@") for p in match[2].split()))
        return cls(tuple(dims), partial)


def _parsed(axes: tuple[str, ...], text: str, size: int) -> Split:
    """A split, of which `text` is what stands behind its axes."""
    if text.startswith("~"):
        return Split.in_units(axes, Length.parse(text[1:]))
    repeated, text = text.startswith("*"), text.removeprefix("*")
    sizes, symbolic, length = text.partition("*")
    segments = segments_of(sizes) if sizes else (Segment(size),)
    return Split(axes, segments, bool(symbolic), repeated, length=Length.parse(length) if length else None)


@lru_cache(maxsize=64)
def _replicated(rank: int) -> Sharding:
    return Sharding((None,) * rank)
