"""What a user asks of a sharding: `P`, one entry a dimension, and the `Constraint` that it is for one tensor on one mesh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError, nearest

from .axes import overlap
from .length import Length
from .mesh import Mesh
from .sharding import Segment, Sharding, Split

OPEN = "?"
"""The entry of a dimension that the planner may split or not."""
Entry = str | tuple[str | int, ...] | EllipsisType | None


@dataclass(frozen=True)
class Constraint:
    """The shardings that a value may have: closed dimensions are split (or whole) as they say, open ones as the planner likes.

    A value under a constraint is never kept partial. ``str()`` gives ``[tp, -, ?]``.
    """

    dims: tuple[Split | None, ...]
    """The split of every closed dimension; None at the open ones."""
    open: frozenset[int] = frozenset()
    gather: bool = True
    """Whether the value may be gathered on its way to who uses it."""

    @classmethod
    def exactly(cls, sharding: Sharding) -> Constraint:
        """The constraint that allows one sharding."""
        return cls(sharding.dims)

    @cached_property
    def first(self) -> Sharding:
        """The sharding that splits no open dimension; the only one there is where all are closed."""
        return Sharding(self.dims)

    @property
    def is_exact(self) -> bool:
        """Whether there is no choice."""
        return not self.open

    def allows(self, sharding: Sharding) -> bool:
        """Whether the value may be kept so."""
        return not sharding.partial and all(
            i in self.open or found == asked for i, (found, asked) in enumerate(zip(sharding.dims, self.dims, strict=True))
        )

    def among(self, shardings: Iterable[Sharding]) -> list[Sharding]:
        """`first`, and those of `shardings` that are allowed."""
        return [self.first] if self.is_exact else list(dict.fromkeys([self.first, *filter(self.allows, shardings)]))

    def over(self, axes: tuple[str, ...]) -> Constraint:
        """What it says of splits over exactly these axes."""
        return Constraint(tuple(d if d is not None and d.axes == axes else None for d in self.dims), self.open, self.gather)

    def __str__(self) -> str:
        dims = ["?" if i in self.open else "-" if d is None else str(d) for i, d in enumerate(self.dims)]
        return f"[{', '.join(dims)}]" + ("" if self.gather else " never gathered")


_placed = door(shape=checks.shape, mesh=checks.instance(Mesh, "Write Mesh(tp=2)."), where=checks.text, blocks=checks.maybe(checks.shape))


class P:
    """What a user asks for: one entry a dimension.

    None is whole, ``"tp"`` splits over an axis, ``("dp", "tp")`` over two (major first), ``("tp", 8192, 1024, 1024)`` by segments; all
    these are closed. ``"?"`` is open: the planner's choice. ``...`` stands for all dimensions not named, open too; with ``others=None``
    they are whole (and ``...`` may be left out at the end). ``gather=False`` forbids that the value is ever gathered.

    ``P("tp", None)``, ``P(..., "tp")``, ``P(others=None)``, ``P("tp", "?", gather=False)``.
    """

    def __init__(self, *entries: Entry, others: str | None = OPEN, gather: bool = True) -> None:
        if others is not None and not isinstance(others, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("P()", f"others is {told(others)}", "It is '?', or None: what is not named is whole.")
        self.entries, self.others, self.gather = entries, others, checks.flag("P(), gather", gather)
        if sum(e is ... for e in entries) > 1:
            raise ShardingError(f"{self}", "'...' may stand only once")
        if others not in (OPEN, None):
            raise ShardingError(f"{self}", f"the dimensions not named cannot be {others!r}", "Write others=None for whole, or others='?'.")

    @_placed
    def constraint(self, shape: tuple[int | None, ...], mesh: Mesh, where: str, blocks: tuple[int, ...] = ()) -> Constraint:
        """What it asks of a tensor of the global `shape` (None where a size is symbolic); `where` is for errors.

        `blocks` says by what each size can be divided, where symbolic sizes were said to be divisible.
        """
        entries: list[Entry] = list(self.entries)
        if ... not in entries and self.others is None:
            entries.append(...)
        if ... in entries:
            at = entries.index(...)
            entries[at : at + 1] = [self.others] * (len(shape) - len(entries) + 1)
        if len(entries) != len(shape):
            named, sizes = len(self.entries) - (... in self.entries), ", ".join("?" if s is None else str(s) for s in shape)
            raise ShardingError(
                where,
                f"{self} has {named} entries, the value has {len(shape)} dimensions" + (f" ({sizes})" if shape else ""),
                "Give one entry a dimension, or '...'.",
            )
        blocks = blocks or tuple(s or 1 for s in shape)
        dims = tuple(self._split(e, i, shape[i], blocks[i], mesh, where) for i, e in enumerate(entries))
        used = [axis for e in entries for axis in _axes(e)]
        parts = mesh.parts(*used)
        for i, part in enumerate(parts):
            if any(part == other or overlap(part, other) for other in parts[:i]):
                raise ShardingError(where, f"{self} uses mesh axis {part.base!r} twice", "An axis can split one dimension only.")
        free = any(n > 1 and axis not in used for axis, n in mesh.axes.items())  # else there is nothing to choose
        opened = frozenset(i for i, e in enumerate(entries) if e == OPEN) if free else frozenset[int]()
        return Constraint(Sharding(dims).normalized(mesh).dims, opened, self.gather)

    @_placed
    def sharding(self, shape: tuple[int | None, ...], mesh: Mesh, where: str) -> Sharding:
        """The one `Sharding` that it asks for, where it leaves no choice."""
        asked = self.constraint(shape, mesh, where)
        if not asked.is_exact:
            raise ShardingError(where, f"{self} leaves a choice, {asked}", "Name every dimension, or write others=None.")
        return asked.first

    def _split(self, entry: object, dim: int, size: int | None, block: int, mesh: Mesh, where: str) -> Split | None:
        if entry is None or entry == () or entry == OPEN:
            return None
        items: tuple[object, ...] = entry if isinstance(entry, tuple) else (entry,)
        axes = tuple(_axes(entry))
        sizes = tuple(i for i in items if isinstance(i, int) and not isinstance(i, bool))
        if len(axes) + len(sizes) != len(items) or not axes or any(s < 0 for s in sizes):
            raise ShardingError(
                where,
                f"{self} has the entry {entry!r}",
                "An entry is None, '?', '...', a mesh axis, or a tuple of axes and segment sizes.",
            )
        for axis in axes:
            if not mesh.has(axis):
                known = f"The axes of {mesh} are {', '.join(map(repr, mesh.axes))}."
                raise ShardingError(where, f"{self} names mesh axis {axis!r}", f"{known} {nearest(axis, mesh.axes)}")
        if size is None:
            return self._symbolic(axes, sizes, dim, block, mesh, where)
        if sizes and sum(sizes) != size:
            raise ShardingError(
                where,
                f"the segments {sizes} of dimension {dim} add up to {sum(sizes)}, and its size is {size}",
                "Segments are the sizes of its pieces before they are split, as (8192, 1024, 1024) of 10240.",
            )
        if mesh.size > 1:  # one worker along an axis holds all: such an axis splits nothing
            axes = mesh.canonical([axis for axis in axes if mesh.axis_size(axis) > 1])
        return Split(axes, tuple(Segment(s) for s in sizes or (size,))) if axes else None

    def _symbolic(self, axes: tuple[str, ...], sizes: tuple[int, ...], dim: int, block: int, mesh: Mesh, where: str) -> Split | None:
        """The split of a dimension whose size is a multiple of `block`, and not known: in blocks where the workers divide these."""
        workers = mesh.axis_size(*axes)
        axes = mesh.canonical([axis for axis in axes if mesh.axis_size(axis) > 1]) if mesh.size > 1 else axes
        even = block % workers == 0 and block > 1
        if sizes or (len(axes) > 1 and not even):
            known, over = (f" and divisible by {block}" if block > 1 else ""), (" by segments" if sizes else " over several axes")
            way_out = f"Say with divisible={{...}} that {workers} divides it, without segments; or use None there."
            raise ShardingError(where, f"{self} splits dimension {dim}, whose size is symbolic{known},{over}", way_out)
        if not axes:
            return None
        return Split(axes, (Segment(block),), symbolic=True) if even else Split.in_units(axes, Length())

    def _key(self) -> tuple[object, ...]:
        return (self.entries, self.others, self.gather)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, P) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        parts = ["..." if e is ... else repr(e) for e in self.entries]
        parts += [] if self.others == OPEN else [f"others={self.others!r}"]
        return f"P({', '.join(parts + ([] if self.gather else ['gather=False']))})"


@dataclass(frozen=True)
class Same:
    """What a result is asked to be: placed as the weight or input of that name is, wherever the planner puts both."""

    name: str
    donate: bool = False
    """Whether that is given up for it: the result takes its memory."""

    def __repr__(self) -> str:
        return f"same({self.name!r}{', donate=True' if self.donate else ''})"


@dataclass(frozen=True)
class Remat:
    """What a value is asked to be: made again for who reads it late, and not held until then."""

    def __repr__(self) -> str:
        return "remat()"


Spec = P | Same | Remat
"""What may be asked of something."""


@door(name=checks.text, donate=checks.flag)
def same(name: str, *, donate: bool = False) -> Same:
    """The spec of a result that is to replace a weight, or an input: ``{"step.return[1]": spmd.same("up.weight")}``.

    What a loop gives and takes again is then never moved between two calls. How both are placed is still the planner's choice, and specs
    on the weight are specs on the result. The result has the shape of what is named.

    With `donate`, the function is given what is named for good, and the result is written into its memory, so that a loop holds one copy.
    A handle that was passed for it is of no use after the call: `ShardingError` says so. Arrays are copied to the workers, and stay as
    they are. Where the old value is read after the new one is made, the result has memory of its own, and that of the old is free after
    the call.
    """
    return Same(name, donate)


def _axes(entry: object) -> list[str]:
    """The mesh axes that an entry names."""
    items: tuple[object, ...] = entry if isinstance(entry, tuple) else (entry,)
    return [i for i in items if isinstance(i, str) and i != OPEN]
