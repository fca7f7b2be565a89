"""The cheapest way from one placement to another, as moves on mesh axes; sizes do not matter, only what is split over what.

Each dimension is on its way from how it is split to how it shall be: minor axes are taken off the one and put onto the other. The
search is Dijkstra's over these states, by the bytes that each worker sends, in units of the whole tensor.
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


@dataclass(frozen=True)
class Way:
    """A dimension: its axes before and after, and how many of the major ones split it in the same way before and after."""

    source: Axes
    target: Axes
    common: int
    alike: bool = False
    """Whether shards before and after are the same, perhaps on other workers."""


@dataclass(frozen=True)
class Move:
    """`kind` is that of `conversion.Step`; the axes move from the minor end of `dim`, or onto it, or from `dim` onto `to_dim`."""

    kind: str
    axes: Axes
    dim: int = -1
    to_dim: int = -1


@dataclass(frozen=True)
class _State:
    dims: tuple[tuple[bool, int], ...]
    """For each dimension whether it is on the way of its target, and the number of axes; up to the common ones it always is."""
    partial: frozenset[str]


@lru_cache(maxsize=1 << 14)
def find_path(
    ways: tuple[Way, ...], partial: tuple[tuple[str, str], ...], left: frozenset[str], sizes: tuple[tuple[str, int], ...]
) -> tuple[Move, ...] | None:
    """The cheapest moves. `partial` gives the kind of each partial axis, `left` those that stay partial, `sizes` the mesh."""
    return _Search(ways, dict(partial), left, dict(sizes)).run()


class _Search:
    def __init__(self, ways: tuple[Way, ...], kinds: dict[str, str], left: frozenset[str], sizes: dict[str, int]) -> None:
        self.ways, self.kinds, self.left, self.sizes = ways, kinds, left, sizes

    def run(self) -> tuple[Move, ...] | None:
        start = _State(tuple(self._at(i, False, len(w.source)) for i, w in enumerate(self.ways)), frozenset(self.kinds))
        goal = _State(tuple((True, len(w.target)) for w in self.ways), self.left)
        order = count()
        heap: list[tuple[float, int, _State, tuple[Move, ...]]] = [(0.0, next(order), start, ())]
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

    def _at(self, dim: int, on_target: bool, number: int) -> tuple[bool, int]:
        return (on_target or number <= self.ways[dim].common, number)

    def _axes(self, state: _State, dim: int) -> Axes:
        on_target, number = state.dims[dim]
        return (self.ways[dim].target if on_target else self.ways[dim].source)[:number]

    def _workers(self, axes: Axes) -> int:
        total = 1
        for axis in axes:
            total *= self.sizes[axis]
        return total

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
            for axes in dict.fromkeys([same, *((a,) for a in same)]):
                n = self._workers(axes)
                yield Move("all_reduce", axes), _STEP + 2 * held * (n - 1) / n, _State(state.dims, state.partial - set(axes))
        for dim, onto in enumerate(self.ways):
            on_target, number = state.dims[dim]
            if on_target:
                yield from self._onto(state, dim, onto.target[number:], held, used)
            axes = self._axes(state, dim)
            if axes and not (on_target and number == len(onto.target)):
                yield from self._off(state, dim, axes, held)
            elif axes:  # done, but its axes may have to make way for another order of moves
                yield from self._off(state, dim, axes, held, only_gather=True)
        if (
            not state.partial
            and all(w.alike for w in self.ways)
            and state.dims == tuple(self._at(i, False, len(w.source)) for i, w in enumerate(self.ways))
        ):
            axes = tuple(a for a in self.sizes if any(a in (*w.source, *w.target) for w in self.ways))
            after = _State(tuple((True, len(w.target)) for w in self.ways), state.partial)
            yield Move("permute", axes), _STEP + held, after

    def _onto(self, state: _State, dim: int, wanted: Axes, held: float, used: set[str]) -> Iterator[tuple[Move, float, _State]]:
        """Put the next axes onto a dimension: by a slice where nothing uses them, by a reduce-scatter where they are partial."""
        for size in range(1, len(wanted) + 1):
            axes = wanted[:size]
            after = (*state.dims[:dim], (True, state.dims[dim][1] + size), *state.dims[dim + 1 :])
            n = self._workers(axes)
            if not used & set(axes):
                yield Move("slice", axes, dim), _SLICE, _State(after, state.partial)
            elif all(self.kinds.get(a) == "sum" and a in state.partial and a not in self.left for a in axes):
                yield Move("reduce_scatter", axes, dim), _STEP + held * (n - 1) / n, _State(after, state.partial - set(axes))

    def _off(self, state: _State, dim: int, axes: Axes, held: float, only_gather: bool = False) -> Iterator[tuple[Move, float, _State]]:
        """Take minor axes off a dimension: gather it, or hand them on to another dimension that wants them next."""
        for size in range(1, len(axes) + 1):
            moved, rest = axes[len(axes) - size :], len(axes) - size
            n = self._workers(moved)
            without = (*state.dims[:dim], self._at(dim, state.dims[dim][0], rest), *state.dims[dim + 1 :])
            yield Move("all_gather", moved, dim), _STEP + held * (n - 1), _State(without, state.partial)
            if only_gather:
                continue
            for to_dim, way in enumerate(self.ways):
                on_target, number = without[to_dim]
                if to_dim != dim and on_target and way.target[number : number + size] == moved:
                    after = (*without[:to_dim], (True, number + size), *without[to_dim + 1 :])
                    yield Move("all_to_all", moved, dim, to_dim), _STEP + held * (n - 1) / n, _State(after, state.partial)
