"""Exact minimization of a sum of small tables by variable elimination in a min-degree order.

Dechter, "Bucket elimination: a unifying framework for reasoning" (1999), over the (min, +) semiring.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
Factor = tuple[tuple[int, ...], Table]
"""Variables, and a table with one dimension for each."""

Sums = dict[tuple[Any, ...], tuple[Table, Table, Any]]
"""Sums of tables made before, their minima, and the tables (which must live as long as their ids are keys)."""

LARGEST_TABLE = 1 << 22
"""Entries of the largest table that elimination may make (32 MB)."""
MOST_ENTRIES = 1 << 25
"""Entries of all tables of one elimination, after which only small ones are made, so that time stays linear; about a second."""
SMALL_TABLE = 1 << 13


@dataclass
class _Bucket:
    """One eliminated variable: the sum of all tables that held it when its turn came, over ``(*around, variable)``."""

    variable: int
    around: tuple[int, ...]
    total: Table


class Elimination:
    """The optimum of ``sum(tables)`` over variables with values ``range(sizes[v])``; ties go to the lowest values.

    `fixed` variables keep the given value. Where a table would grow over `LARGEST_TABLE` entries (or all over `MOST_ENTRIES`), variables
    are fixed greedily first: `conditioned` names them, and the result may then not be the optimum. With a `guide`, an earlier solution,
    they keep its values, and those in `spared` are fixed last. `sums` is shared by problems with the same tables.
    """

    def __init__(
        self,
        sizes: Mapping[int, int],
        factors: Sequence[Factor],
        fixed: Mapping[int, int] | None = None,
        sums: Sums | None = None,
        *,
        guide: Mapping[int, int] | None = None,
        spared: Collection[int] = (),
    ) -> None:
        self._guide, self._spared = guide, spared
        self.sizes = {v: n for v, n in sizes.items() if not fixed or v not in fixed}
        self.fixed: dict[int, int] = dict(fixed or {})
        self.conditioned: list[int] = []
        self.width = 0
        self.cost = 0.0
        self._buckets: list[_Bucket] = []
        self._made = 0
        self._sums: Sums = sums if sums is not None else {}
        self._touching: dict[int, dict[int, Factor]] = {v: {} for v in self.sizes}
        self._neighbours: dict[int, set[int]] = {v: set() for v in self.sizes}
        self._count = 0
        for variables, table in factors:
            self._add(*_condition(variables, table, self.fixed))
        self._run()

    @cached_property
    def choice(self) -> dict[int, int]:
        """A value for each variable."""
        chosen = dict(self.fixed)
        for bucket in reversed(self._buckets):
            chosen[bucket.variable] = int(bucket.total[tuple([chosen[u] for u in bucket.around])].argmin())
        return chosen

    def regrets(self, variables: Iterable[int]) -> dict[int, Table]:
        """For each variable and value, how much more the best solution with that value costs than the best of all."""
        wanted = set(variables)
        last = len(self._buckets)
        turn = {b.variable: i for i, b in enumerate(self._buckets)}
        # Each bucket sent its minimum to the bucket of its first neighbour; what all others know comes back the same way.
        found: dict[int, Table] = {}
        beliefs: dict[int, Table] = {}
        waiting = [0] * last
        parents: list[int | None] = []
        for b in self._buckets:
            parent = min((turn[u] for u in b.around), default=None)
            parents.append(parent)
            if parent is not None:
                waiting[parent] += 1
        for i in range(last - 1, -1, -1):
            bucket, parent = self._buckets[i], parents[i]
            belief = bucket.total
            if parent is not None:
                outer = self._buckets[parent]
                scope = (*outer.around, outer.variable)
                sent = np.min(bucket.total, axis=-1)
                beyond = beliefs[parent] - _aligned(bucket.around, sent, scope)
                away = tuple(k for k, u in enumerate(scope) if u not in bucket.around)
                kept = [u for u in scope if u in bucket.around]
                belief = belief + _aligned(tuple(kept), np.min(beyond, axis=away), (*bucket.around, bucket.variable))
                waiting[parent] -= 1
                if not waiting[parent]:
                    del beliefs[parent]
            if waiting[i]:
                beliefs[i] = belief
            if bucket.variable in wanted:
                least = np.min(belief, axis=tuple(range(belief.ndim - 1)))
                found[bucket.variable] = least - least.min()
        return found

    def _add(self, variables: tuple[int, ...], table: Table) -> None:
        if not variables:
            self.cost += float(table)
            return
        self._count += 1
        for v in variables:
            self._touching[v][self._count] = (variables, table)
            self._neighbours[v].update(variables)
            self._neighbours[v].discard(v)

    def _remove(self, v: int) -> list[Factor]:
        """Take `v` and all tables that hold it out of the problem."""
        held = self._touching.pop(v)
        for key, (variables, _) in held.items():
            for u in variables:
                if u != v:
                    del self._touching[u][key]
        for u in self._neighbours.pop(v):
            self._neighbours[u].discard(v)
        return list(held.values())

    def _run(self) -> None:
        heap = [(len(around), v) for v, around in self._neighbours.items()]
        heapq.heapify(heap)
        while heap:
            degree, v = heapq.heappop(heap)
            if v not in self._neighbours or degree != len(self._neighbours[v]):
                continue
            around = tuple(sorted(self._neighbours[v]))
            entries = self.sizes[v] * math.prod([self.sizes[u] for u in around])
            if entries > (LARGEST_TABLE if self._made < MOST_ENTRIES else SMALL_TABLE):
                changed = self._fix_one(around)
                changed.append(v)
            else:
                self._eliminate(v, around)
                changed = list(around)
            for u in changed:
                heapq.heappush(heap, (len(self._neighbours[u]), u))

    def _eliminate(self, v: int, around: tuple[int, ...]) -> None:
        self.width = max(self.width, len(around))
        place = {u: i for i, u in enumerate((*around, v))}
        held = [(tuple([place[u] for u in variables]), table) for variables, table in self._remove(v)]
        # Layers repeat, and so do sums of the same tables.
        key = (len(place), *[(id(table), at) for at, table in held])
        if key not in self._sums:
            total: Table = np.zeros([self.sizes[u] for u in place])
            for at, table in held:
                total += _spread(table, at, len(place))
            self._sums[key] = (total, total.min(axis=-1), held)
            self._made += total.size
        total, least, _ = self._sums[key]
        self._buckets.append(_Bucket(v, around, total))
        self._add(around, least)

    def _fix_one(self, among: tuple[int, ...]) -> list[int]:
        """Fix the neighbour with most neighbours to what the guide says, or else its own tables like best."""
        u = max(among, key=lambda w: (w not in self._spared, len(self._neighbours[w]), self.sizes[w], -w))
        around = list(self._neighbours[u])
        held = self._remove(u)
        if self._guide is not None:
            best = self._guide[u]
        else:
            best = int(np.argmin(sum(np.min(t, axis=tuple(i for i, w in enumerate(vs) if w != u)) for vs, t in held)))
        self.fixed[u] = best
        self.conditioned.append(u)
        for variables, table in held:
            self._add(*_condition(variables, table, {u: best}))
        return around


def _condition(variables: tuple[int, ...], table: Table, fixed: Mapping[int, int]) -> Factor:
    """The table with some variables at fixed values."""
    if not any(v in fixed for v in variables):
        return variables, table
    index = tuple(fixed[v] if v in fixed else slice(None) for v in variables)
    return tuple(v for v in variables if v not in fixed), table[index]


def _aligned(variables: tuple[int, ...], table: Table, scope: tuple[int, ...]) -> Table:
    """`table` with its dimensions in the order of `scope`, and size 1 for the variables that it lacks."""
    return _spread(table, tuple(scope.index(v) for v in variables), len(scope))


def _spread(table: Table, at: tuple[int, ...], rank: int) -> Table:
    """`table` with dimension i moved to place ``at[i]`` of `rank`, and size 1 elsewhere."""
    if len(at) > 1 and list(at) != sorted(at):
        order = sorted(range(len(at)), key=at.__getitem__)
        table, at = table.transpose(order), tuple(at[i] for i in order)
    shape = [1] * rank
    for place, size in zip(at, table.shape, strict=True):
        shape[place] = size
    return table.reshape(shape)
