"""The fastest ways from shardings to others by a cost model's own times, one at a time or all pairs of many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from math import prod

import numpy as np

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split

from .atoms import MOST, atoms_of
from .conversion import Move, moves_through
from .family import MOST_STATES, Family, Tilings, View, count_states, tilings_of, too_many_axes, view_of
from .graph import Floats
from .paths import Paths

Time = Callable[[str, str, int, int], float]
"""The time of one move from its kind, the axis that it runs over, the bytes that each worker brings, and those that it puts in order."""
HeldSize = Callable[[int, Split], int]
"""What a worker holds of a dimension of a planning size."""
Partial = tuple[tuple[str, str], ...]
"""Axes over which a value is partial, and how it is reduced."""
_MOST_PAIRS = 1 << 8
"""Pairs of shardings that are converted at once on a mesh of more than `MOST` axes, where they are searched one by one."""
_MANY = 1 << 12
"""Shardings of a tensor in one graph; where there are more, on three axes at most, those are searched together that are tiled alike."""


class _Expected:
    """The shardings of tensors of one shape that will be asked for: one search for all is less work than one for each two lists of them."""

    def __init__(self) -> None:
        self._views: dict[View, None] = {}
        self._tilings: Tilings = ()
        self._partial: dict[str, str] = {}

    def add(self, views: Iterable[View]) -> None:
        """Expect these, too."""
        self._views.update(dict.fromkeys(views))
        self._tilings = tilings_of(self._views)
        for view in self._views:
            self._partial.update(view.partial)

    def tilings(self, own: Tilings, is_large: Callable[[Tilings], bool]) -> Tilings:
        """All that are expected where `own` are among them and they do not make too large a graph, else `own`."""
        expected = self._tilings
        among = len(own) == len(expected) and all(set(one) <= set(all_) for one, all_ in zip(own, expected, strict=True))
        return expected if among and not is_large(expected) else own

    def partial(self, own: Sequence[Partial]) -> Partial:
        """All axes over which a value is partial, with those that are expected; none where one is to be reduced in two ways."""
        found = dict(pair for pairs in own for pair in pairs)
        if any(found[name] != kind for pairs in own for name, kind in pairs):
            return ()
        return tuple(sorted((self._partial if self._partial.items() >= found.items() else found).items()))


class Transfers:
    """Shortest paths over the shardings of a mesh.

    Pairs of shardings that differ in names and sizes alone are searched once; times are worked out once for all pairs of a number of bytes.
    """

    def __init__(self, mesh: Mesh, time: Time, held_size: HeldSize) -> None:
        self.mesh, self.time, self._held_size = mesh, time, held_size
        axes = frozenset(name for name, size in mesh.axes.items() if size > 1)
        self._is_wide, self._is_split = len(axes) > MOST, len(axes) <= 3
        self._all = frozenset[str]() if self._is_wide else axes
        """The axes that every search may use, whether the value is split over them or not."""
        self._expected: dict[tuple[int, ...], _Expected] = {}
        self._families: dict[tuple[object, ...], Family] = {}
        self._paths: dict[tuple[object, ...], Paths] = {}
        self._found: dict[tuple[object, ...], tuple[Move, ...] | None] = {}

    def expect(self, shape: tuple[int, ...], shardings: Iterable[Sharding]) -> None:
        """Tensors of this planning shape will be moved between these shardings: all of them are searched together, where they can be."""
        self._expected.setdefault(shape, _Expected()).add([view_of(sharding, self.mesh) for sharding in shardings])

    def seconds(
        self, shape: tuple[int, ...], item: int, sources: Sequence[Sharding], targets: Sequence[Sharding], *, gather: bool = True
    ) -> Floats:
        """The least time from each of `sources` (rows) to each of `targets` (columns), infinite where there is no way.

        It is that of a tensor of the planning `shape`, of which an element takes `item` bytes. Without `gather`, nothing is gathered.
        Raises `ShardingError` where the axes of the mesh are too many to search all ways.
        """
        found = np.full((len(sources), len(targets)), np.inf)
        if found.size > _MOST_PAIRS and self._is_wide:
            raise too_many_axes(self.mesh)
        views = [view_of(s, self.mesh) for s in sources], [view_of(s, self.mesh) for s in targets]
        expected = self._expected.get(shape, _Expected())
        atoms = len(atoms_of(self._all.union(*[view.names for view in (*views[0], *views[1])]), self.mesh))
        partial = expected.partial([view.partial for view in views[0]])

        def is_large(tilings: Tilings) -> bool:
            return count_states(atoms, list(map(len, tilings)), bool(partial)) > (_MANY if self._is_split else MOST_STATES)

        tilings = expected.tilings(tilings_of((*views[0], *views[1])), lambda all_: self._is_split and is_large(all_))
        many = is_large(tilings)
        if many and not self._is_split and not self._is_wide:
            raise too_many_axes(self.mesh)
        together = partial, None if many else tilings
        rows: dict[object, list[int]] = {}
        columns: dict[object, list[int]] = {}
        for i, view in enumerate(views[0]):
            rows.setdefault((view.names - self._all, partial or view.partial, many and view.tilings), []).append(i)
        for j, view in enumerate(views[1]):
            columns.setdefault((view.names - self._all, many and view.tilings), []).append(j)
        for some, others in product(rows.values(), columns.values()):
            befores, afters = [views[0][i] for i in some], [views[1][j] for j in others]
            if self._is_shared(befores[0], afters[0]):
                found[np.ix_(some, others)] = self._block(shape, item, befores, afters, gather, *together)
            else:
                for (i, before), (j, after) in product(zip(some, befores, strict=True), zip(others, afters, strict=True)):
                    found[i, j] = self._block(shape, item, [before], [after], gather)[0, 0]
        return found

    def steps(
        self, shape: tuple[int, ...], item: int, source: Sharding, target: Sharding, *, gather: bool = True
    ) -> tuple[Move, ...] | None:
        """The moves of the fastest way, or None where there is none (nothing becomes partial)."""
        if source == target:
            return ()
        key = (shape, item, source, target, gather)
        if key not in self._found:
            self._found[key] = self._steps(shape, item, source, target, gather)
        return self._found[key]

    def _steps(self, shape: tuple[int, ...], item: int, source: Sharding, target: Sharding, gather: bool) -> tuple[Move, ...] | None:
        before, after = view_of(source, self.mesh), view_of(target, self.mesh)
        family = self._family([before], [after])
        start, end = family.numbers([before, after])
        moves = None if end < 0 else self._of(family, shape, item, gather).path(start, end)
        steps = None if moves is None else moves_through(family.shardings(source, moves, target), self.mesh)
        return None if steps is None else tuple(steps)

    def _block(
        self,
        shape: tuple[int, ...],
        item: int,
        befores: Sequence[View],
        afters: Sequence[View],
        gather: bool,
        partial: Partial = (),
        tilings: Tilings | None = None,
    ) -> Floats:
        """The times between shardings that are searched together, with others that are `partial` and tiled so where that can be."""
        family = self._family(befores, afters, partial, tilings)
        starts, ends = family.numbers(befores), family.numbers(afters)
        known = [j for j, end in enumerate(ends) if end >= 0]
        found = np.full((len(befores), len(afters)), np.inf)
        if known:
            found[:, known] = self._of(family, shape, item, gather).seconds(starts, [ends[j] for j in known])
        return found

    def _of(self, family: Family, shape: tuple[int, ...], item: int, gather: bool) -> Paths:
        rest = prod([size for dim, size in enumerate(shape) if dim not in family.dims], start=item)
        sizes = [shape[dim] for dim in family.dims]
        measured = {place: self._held_size(sizes[place[0]], split) for place, split in family.measured.items()}
        held = family.graph.held(sizes, rest, measured)
        key = (id(family.graph), tuple(family.names), held.tobytes(), gather)
        if key not in self._paths:
            times = family.graph.times(held, sizes, measured, lambda kind, atoms, *of: self.time(kind, family.axis(atoms), *of))
            self._paths[key] = Paths(family.graph, times, gather)
        return self._paths[key]

    def _names(self, before: View, after: View) -> frozenset[str]:
        """The axes of a search: all of the mesh, or where these would be too many parts those of the two shardings."""
        common = before.names | after.names | self._all
        return common if len(atoms_of(common, self.mesh)) <= MOST else before.names | after.names

    def _is_shared(self, before: View, after: View) -> bool:
        """Whether pairs like this one, which differ in the axes of the mesh that they use, are searched at once."""
        common = before.names | after.names | self._all
        return len(atoms_of(common, self.mesh)) <= MOST

    def _family(self, befores: Sequence[View], afters: Sequence[View], partial: Partial = (), tilings: Tilings | None = None) -> Family:
        names = self._names(befores[0], afters[0])
        alone = len(atoms_of(names, self.mesh)) > MOST
        ends = (befores[0], afters[0]) if alone else None
        own = dict(pair for view in befores for pair in view.partial)
        if alone or not names.issuperset(name for name, _ in partial) or not own.items() <= set(partial):
            partial = tuple(sorted(own.items()))
        if alone or tilings is None:
            tilings = tilings_of((*befores, *afters))
        key: tuple[object, ...] = (names, tilings, partial, ends)
        if key not in self._families:
            self._families[key] = Family(self.mesh, names, tilings, partial, ends)
        return self._families[key]
