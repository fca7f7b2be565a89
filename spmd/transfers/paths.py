"""The cheapest way from one placement to another, as moves on mesh axes; sizes do not matter, only what is split over what.

Each dimension is on its way from how it is split to how it shall be: minor axes are taken off the one and put onto the other, and
major ones too where that keeps bytes off slow axes. The search is Dijkstra's over these states, by the bytes that each worker sends,
in units of the whole tensor.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

Axes = tuple[str, ...]
_STEP = 1e-4
"""What a collective costs beside its bytes: of two ways that send as much, the one with fewer is taken."""
_SLICE = 1e-7
SLOW = 8
"""What a byte counts that is sent over a slow axis; in known profiles it takes 2 to 20 times as long between hosts as within one."""


@dataclass(frozen=True)
class Way:
    """A dimension: its axes before and after, and how many of the major ones split it in the same way before and after."""

    source: Axes
    target: Axes
    common: int
    alike: bool = False
    """Whether shards before and after are the same, perhaps on other workers."""
    even: bool = False
    """Whether major axes may be put on and taken off before minor ones, which leaves a dimension split piece by piece."""


@dataclass(frozen=True)
class Move:
    """`kind` is that of `conversion.Step`; the axes move from the minor or major end of `dim`, or onto it, or from `dim` onto `to_dim`."""

    kind: str
    axes: Axes
    dim: int = -1
    to_dim: int = -1


_Held = tuple[bool, int, int]
"""Which axes split a dimension: those of its target, or else of its source, from the first number up to the second. What is common to
both is the target's, and so is nothing."""


@dataclass(frozen=True)
class _State:
    dims: tuple[_Held, ...]
    partial: frozenset[str]

    def with_dim(self, dim: int, held: _Held) -> _State:
        return _State((*self.dims[:dim], held, *self.dims[dim + 1 :]), self.partial)


@lru_cache(maxsize=1 << 14)
def find_path(
    ways: tuple[Way, ...],
    partial: tuple[tuple[str, str], ...],
    left: frozenset[str],
    sizes: tuple[tuple[str, int], ...],
    slow: frozenset[str] = frozenset(),
) -> tuple[Move, ...] | None:
    """The cheapest moves. `partial` gives the kind of each partial axis, `left` those that stay partial, `sizes` the mesh.

    `slow` are axes over which a byte takes longer than over the others.
    """
    return _Search(ways, dict(partial), left, dict(sizes), slow).run()


class _Search:
    def __init__(
        self, ways: tuple[Way, ...], kinds: dict[str, str], left: frozenset[str], sizes: dict[str, int], slow: frozenset[str]
    ) -> None:
        self.ways, self.kinds, self.left, self.sizes, self.slow = ways, kinds, left, sizes, slow
        self.start = tuple(self._at(i, False, 0, len(w.source)) for i, w in enumerate(ways))
        self.goal = tuple((True, 0, len(w.target)) for w in ways)

    def run(self) -> tuple[Move, ...] | None:
        goal = _State(self.goal, self.left)
        order = count()
        heap: list[tuple[float, int, _State, tuple[Move, ...]]] = [(0.0, next(order), _State(self.start, frozenset(self.kinds)), ())]
        done: set[_State] = set()
        while heap:
            cost, _, state, path = heapq.heappop(heap)
            if state == goal:
                return path
            if state in done:
                continue
            done.add(state)
            for move, time, after in self._moves(state):
                if after not in done:
                    heapq.heappush(heap, (cost + time, next(order), after, (*path, move)))
        return None

    def _at(self, dim: int, on_target: bool, first: int, last: int) -> _Held:
        if first == last:
            return (True, 0, 0)
        return (on_target or last <= self.ways[dim].common, first, last)

    def _axes(self, state: _State, dim: int) -> Axes:
        on_target, first, last = state.dims[dim]
        return (self.ways[dim].target if on_target else self.ways[dim].source)[first:last]

    def _workers(self, axes: Axes) -> int:
        total = 1
        for axis in axes:
            total *= self.sizes[axis]
        return total

    def _time(self, axes: Axes, sent: float) -> float:
        return _STEP + sent * (SLOW if self.slow and not self.slow.isdisjoint(axes) else 1)

    def _moves(self, state: _State) -> Iterator[tuple[Move, float, _State]]:
        held = 1.0
        used = set(state.partial)
        for dim in range(len(self.ways)):
            axes = self._axes(state, dim)
            used.update(axes)
            held /= self._workers(axes)
        reducible = [a for a in self.kinds if a in state.partial and a not in self.left]
        for kind in dict.fromkeys(self.kinds[a] for a in reducible):
            same = tuple(a for a in reducible if self.kinds[a] == kind)
            # Over fast and slow axes at once it stays one. A planner that keeps the value split, between a reduce-scatter and an
            # all-gather over the fast ones, sends less; whether that is faster hangs on the size, which it knows.
            mixed = 0 < len(self.slow.intersection(same)) < len(same)
            for axes in [same] if mixed else dict.fromkeys([same, *((a,) for a in same)]):
                n = self._workers(axes)
                yield Move("all_reduce", axes), self._time(axes, 2 * held * (n - 1) / n), _State(state.dims, state.partial - set(axes))
        for dim in range(len(self.ways)):
            if state.dims[dim][0]:
                yield from self._onto(state, dim, held, used)
            if self._axes(state, dim):
                # What is done may still have to make way for another order of moves: it is gathered.
                yield from self._off(state, dim, held, only_gather=state.dims[dim] == self.goal[dim])
        if not state.partial and all(w.alike for w in self.ways) and state.dims == self.start:
            axes = tuple(a for a in self.sizes if any(a in (*w.source, *w.target) for w in self.ways))
            yield Move("permute", axes), self._time(axes, held), _State(self.goal, state.partial)

    def _onto(self, state: _State, dim: int, held: float, used: set[str]) -> Iterator[tuple[Move, float, _State]]:
        """Put axes onto a dimension: by a slice where nothing uses them, by a reduce-scatter where they are partial."""
        _, first, last = state.dims[dim]
        way = self.ways[dim]
        end = len(way.target)
        more = [((first, new), (last, new)) for new in range(last + 1, end + 1)]  # what is held then, and what is put on
        if way.even and first == last:
            more += [((start, stop), (start, stop)) for start in range(1, end) for stop in range(start + 1, end + 1)]
        elif way.even:
            more += [((new, last), (new, first)) for new in range(first)]
        for after, (start, stop) in more:
            axes = way.target[start:stop]
            n = self._workers(axes)
            new = state.with_dim(dim, (True, *after))
            if not used & set(axes):
                yield Move("slice", axes, dim), _SLICE, new
            elif all(self.kinds.get(a) == "sum" and a in state.partial and a not in self.left for a in axes):
                sent = held * (n - 1) / n
                yield Move("reduce_scatter", axes, dim), self._time(axes, sent), _State(new.dims, state.partial - set(axes))

    def _off(self, state: _State, dim: int, held: float, only_gather: bool) -> Iterator[tuple[Move, float, _State]]:
        """Take axes off a dimension: gather it, or hand them on to another dimension that wants them next."""
        on_target, first, last = state.dims[dim]
        axes = self._axes(state, dim)
        less = [((first, last - size), axes[len(axes) - size :]) for size in range(1, len(axes) + 1)]  # what is left, and what is taken
        if self.ways[dim].even:
            less += [((first + size, last), axes[:size]) for size in range(1, len(axes))]
        for rest, moved in less:
            n = self._workers(moved)
            without = state.with_dim(dim, self._at(dim, on_target, *rest))
            yield Move("all_gather", moved, dim), self._time(moved, held * (n - 1)), without
            if only_gather:
                continue
            for to_dim, way in enumerate(self.ways):
                to_target, start, stop = without.dims[to_dim]
                if to_dim == dim or not to_target:
                    continue
                for more in ((start, stop + len(moved)), (start - len(moved), stop)):
                    if more[0] >= 0 and way.target[more[0] : start] + way.target[stop : more[1]] == moved:
                        after = without.with_dim(to_dim, (True, *more))
                        yield Move("all_to_all", moved, dim, to_dim), self._time(moved, held * (n - 1) / n), after
