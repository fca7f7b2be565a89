"""The fastest paths between the states of a graph, searched once for all that differ in the names of axes alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from .graph import Floats, Graph, Ints, TilingNumbers
from .states import Edge

_LONGEST = 12
"""Moves of the longest path: more than any needs."""
_ALIKE = 1e-9
"""The relative difference of times that is rounding; of such paths the one of the fewest moves is taken."""
_Either = tuple[frozenset[int], ...]
"""The tilings of each dimension in the two shardings of a pair."""


class Paths:
    """The fastest paths between the states of a graph, for one number of bytes."""

    def __init__(self, graph: Graph, times: Floats, gather: bool = True) -> None:
        self.graph, self.times, self._gather = graph, times, gather
        self._known: dict[_Either, dict[int, Floats]] = {}
        """The times to a state from all that are tiled like one end or the other."""
        states = [np.arange(len(graph.states)), *(after for after, moves in graph.renamings if np.array_equal(times, times[moves]))]
        self._renamed = np.stack(states)
        """Each state after each renaming of axes that changes no time: first the state itself."""
        self._like = self._renamed.argmin(axis=0)
        """The renaming that takes a state to the first of those that are like it."""

    def seconds(self, sources: Sequence[int], targets: Sequence[int]) -> Floats:
        """The least time from each of `sources` (rows) to each of `targets` (columns), infinite where there is no way."""
        found = np.empty((len(sources), len(targets)))
        rows, columns = self._by_tilings(sources), self._by_tilings(targets)
        ends = np.array(targets, np.int64)
        like = self._like[ends]  # after a renaming that takes each end to the first of those like it
        firsts, starts = self._renamed[like, ends], self._renamed[like][:, np.array(sources, np.int64)]
        for (source, some), (target, others) in product(rows.items(), columns.items()):
            found[np.ix_(some, others)] = self._block(source, target, starts[np.ix_(others, some)], firsts[others].tolist()).T
        return found

    def _by_tilings(self, states: Sequence[int]) -> dict[TilingNumbers, list[int]]:
        found: dict[TilingNumbers, list[int]] = {}
        for place, state in enumerate(states):
            found.setdefault(self.graph.tilings(state), []).append(place)
        return found

    def _block(self, source: TilingNumbers, target: TilingNumbers, starts: Ints, ends: Sequence[int]) -> Floats:
        """The times to each of `ends` from its own row of `starts`, all of these tilings."""
        either = tuple([frozenset(pair) - {-1} for pair in zip(source, target, strict=True)])
        known = self._known.setdefault(either, {})
        states = self.graph.tiled(source, target)
        missing = [end for end in dict.fromkeys(ends) if end not in known]
        if missing:
            moves = self.graph.between(source, target, self._gather)
            found = _Moves(self.graph, self.times, moves, states).levels(missing)[-1]
            known.update((end, found[:, i].copy()) for i, end in enumerate(missing))
        return np.take_along_axis(np.stack([known[end] for end in ends]), np.searchsorted(states, starts), axis=1)

    def path(self, source: int, target: int) -> list[Edge] | None:
        """The moves of the fastest path, or None where there is no way."""
        graph = self.graph
        moves = graph.between(graph.tilings(source), graph.tilings(target), self._gather)
        levels = [level[:, 0] for level in _Moves(graph, self.times, moves, np.arange(len(graph.states))).levels([target])]
        if np.isinf(levels[-1][source]):
            return None
        found: list[Edge] = []
        last = len(levels) - 1
        while source != target:
            while levels[last - 1][source] == levels[last][source]:
                last -= 1
            last -= 1  # the moves that are left after the next one
            mine = moves[graph.before[moves] == source]
            total = self.times[mine] + levels[last][graph.after[mine]]
            best = mine[np.flatnonzero(total <= total.min() * (1 + _ALIKE))[0]]
            found.append(graph.move(int(best)))
            source = int(graph.after[best])
        return found


class _Moves:
    """Some moves of a graph between `states`, sorted numbers, by those that they start from."""

    def __init__(self, graph: Graph, times: Floats, moves: Ints, states: Ints) -> None:
        self._states, self._times = states, times[moves, None]
        self._after = np.searchsorted(states, graph.after[moves])
        before = np.searchsorted(states, graph.before[moves])
        self._starts = np.flatnonzero(np.diff(before, prepend=-1))
        self._places = before[self._starts]

    def levels(self, targets: Sequence[int]) -> list[Floats]:
        """The least times of paths of no move, of one at most, of two at most and so on, up to where more moves save nothing."""
        now = np.full((len(self._states), len(targets)), np.inf)
        now[np.searchsorted(self._states, targets), range(len(targets))] = 0.0
        levels = [now]
        if not len(self._starts):
            return levels
        for _ in range(_LONGEST):
            best = np.minimum.reduceat(self._times + now[self._after], self._starts, axis=0)
            better = best < now[self._places] * (1 - _ALIKE)
            if not better.any():
                break
            now = now.copy()
            now[self._places] = np.where(better, best, now[self._places])
            levels.append(now)
        return levels
