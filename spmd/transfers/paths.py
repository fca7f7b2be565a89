"""The fastest paths between the states of a graph, searched once for all that differ in the names of axes alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .graph import Either, Floats, Graph, Ints, either_of
from .states import Edge

_LONGEST = 12
"""Moves of the longest path: more than any needs."""
_ALIKE = 1e-9
"""The relative difference of times that is rounding; of such paths the one of the fewest moves is taken."""


class Paths:
    """The fastest paths between the states of a graph, for one number of bytes."""

    def __init__(self, graph: Graph, times: Floats, gather: bool = True) -> None:
        self.graph, self.times, self._gather = graph, times, gather
        self._times: Floats = np.empty((0, len(graph.states)))
        """The least times to an end (rows) from each state, NaN where nobody asked."""
        self._row: Ints = np.full(len(graph.states), -1)
        """The row of each end, -1 where nobody asked."""
        states = [np.arange(len(graph.states)), *(after for after, moves in graph.renamings if np.array_equal(times, times[moves]))]
        self._renamed = np.stack(states)
        """Each state after each renaming of axes that changes no time: first the state itself."""
        self._like = self._renamed.argmin(axis=0)
        """The renaming that takes a state to the first of those that are like it."""

    def seconds(self, sources: Sequence[int], targets: Sequence[int]) -> Floats:
        """The least time from each of `sources` (rows) to each of `targets` (columns), infinite where there is no way."""
        ends = np.array(targets, np.int64)
        like = self._like[ends]  # after a renaming that takes each end to the first of those like it
        ends, starts = self._renamed[like, ends], self._renamed[like[:, None], np.array(sources, np.int64)]
        new = np.unique(ends[self._row[ends] < 0])
        self._row[new] = len(self._times) + np.arange(len(new))
        self._times = np.concatenate([self._times, np.full((len(new), len(self._row)), np.nan)])
        found = self._times[self._row[ends][:, None], starts]
        if np.isnan(found).any():
            j, i = np.nonzero(np.isnan(found))
            self._search(ends[j], starts[j, i])
            found = self._times[self._row[ends][:, None], starts]
        return found.T

    def _search(self, ends: Ints, starts: Ints) -> None:
        """Find the times to each of `ends` from its own one of `starts`, and from all that are tiled so."""
        graph = self.graph
        _, firsts = np.unique(ends * len(graph.states) + graph.kinds[starts], return_index=True)
        pairs: dict[Either, list[int]] = {}
        for end, start in zip(ends[firsts].tolist(), starts[firsts].tolist(), strict=True):
            pairs.setdefault(either_of(graph.tilings(start), graph.tilings(end)), []).append(end)
        for either, to in pairs.items():
            to = list(dict.fromkeys(to))
            states = graph.tiled(either)
            times = _Moves(graph, self.times, graph.between(either, self._gather), states).levels(to)[-1]
            opposite = {tiling: graph.opposite(either, tiling) for tiling in dict.fromkeys(map(graph.tilings, to))}
            for i, end in enumerate(to):
                own = opposite[graph.tilings(end)]
                self._times[self._row[end], states[own]] = times[own, i]

    def path(self, source: int, target: int) -> list[Edge] | None:
        """The moves of the fastest path, or None where there is no way."""
        graph = self.graph
        moves = graph.between(either_of(graph.tilings(source), graph.tilings(target)), self._gather)
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
