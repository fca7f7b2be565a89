"""Exact minimization of a sum of small tables by variable elimination in a min-degree order.

Dechter, "Bucket elimination: a unifying framework for reasoning" (1999), over the (min, +) semiring. Variables whose elimination would
need too large a table are left: with the tables over them they are the *core* of the problem, which has the same optimum.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Table: TypeAlias = NDArray[Any]
"""Costs: seconds, or whole units of them."""
Factor: TypeAlias = tuple[tuple[int, ...], Table]
"""Variables, and a table with one dimension for each."""

Sums = dict[tuple[Any, ...], tuple[Table, Table, Any]]
"""Sums of tables made before, their minima, and the tables (which must live as long as their ids are keys)."""

LARGEST_TABLE = 1 << 22
"""Entries of the largest table that elimination may make (32 MB)."""
MOST_ENTRIES = 1 << 25
"""Entries of all tables of one elimination, after which only small ones are made, so that time stays linear; about a second."""
SMALL_TABLE = 1 << 13


@dataclass(frozen=True)
class Limits:
    """How far elimination may go."""

    total: int = LARGEST_TABLE
    """Entries of the largest sum of tables that it may make."""
    least: int = LARGEST_TABLE
    """Entries of the largest table that it may leave in their place."""
    made: int = MOST_ENTRIES
    """Entries of all tables, after which it makes small ones only."""
    cost: int | None = None
    """What is not told from more: costs are cut there, so that sums of integers stay in range."""


@dataclass
class _Bucket:
    """One eliminated variable: the sum of all tables that held it when its turn came, over ``(*around, variable)``."""

    variable: int
    around: tuple[int, ...]
    total: Table


class Elimination:
    """The optimum of ``sum(tables)`` over variables with values ``range(sizes[v])``; ties go to the lowest values.

    Variables in `kept`, and those that would need a table above `limits` (or above `SMALL_TABLE` after ``limits.made`` of all), are left:
    `core` has them, `left` the tables over them, and `cost` is what comes to these. `sums` is shared by problems with the same tables.
    """

    def __init__(
        self,
        sizes: Mapping[int, int],
        factors: Sequence[Factor],
        sums: Sums | None = None,
        *,
        kept: Collection[int] = (),
        limits: Limits | None = None,
    ) -> None:
        self.sizes, self._kept, self._limits = sizes, kept, limits or Limits()
        self.width = 0
        self.cost: Any = 0
        self._buckets: list[_Bucket] = []
        self._made = 0
        self._sums: Sums = sums if sums is not None else {}
        self._touching: dict[int, dict[int, Factor]] = {v: {} for v in sizes}
        self._neighbours: dict[int, set[int]] = {v: set() for v in sizes}
        self._count = 0
        for variables, table in factors:
            self._add(variables, table)
        self._run()

    @property
    def core(self) -> list[int]:
        """The variables that are left."""
        return sorted(self._neighbours)

    @property
    def left(self) -> list[Factor]:
        """The tables over the core, in the order in which they were given or made."""
        found = {key: factor for held in self._touching.values() for key, factor in held.items()}
        return [found[key] for key in sorted(found)]

    def choice(self, core: Mapping[int, int] | None = None) -> dict[int, int]:
        """The best value of each variable, with these of the core."""
        chosen = dict(core or {})
        for bucket in reversed(self._buckets):
            chosen[bucket.variable] = int(bucket.total[tuple([chosen[u] for u in bucket.around])].argmin())
        return chosen

    def regrets(self, variables: Iterable[int]) -> dict[int, Table]:
        """How much more the best solution with each value of a variable costs than the best of all; without a core."""
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
            self.cost += table.item()
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
        # By generations: of equal layers those of one place come one after the other, before what they leave is gone into further.
        heap = [(len(around), 0, v) for v, around in self._neighbours.items() if v not in self._kept]
        heapq.heapify(heap)
        turn = dict.fromkeys(self.sizes, 0)
        while heap:
            degree, generation, v = heapq.heappop(heap)
            if v not in self._neighbours or degree != len(self._neighbours[v]) or generation != turn[v]:
                continue
            around = tuple(sorted(self._neighbours[v]))
            least = math.prod([self.sizes[u] for u in around])
            if least > self._limits.least or least * self.sizes[v] > (
                self._limits.total if self._made < self._limits.made else min(SMALL_TABLE, self._limits.total)
            ):
                continue  # its turn comes again when a neighbour is gone
            self._eliminate(v, around)
            for u in around:
                if u not in self._kept:
                    turn[u] = max(turn[u], generation + 1)
                    heapq.heappush(heap, (len(self._neighbours[u]), turn[u], u))

    def _eliminate(self, v: int, around: tuple[int, ...]) -> None:
        self.width = max(self.width, len(around))
        place = {u: i for i, u in enumerate((*around, v))}
        held = [(tuple([place[u] for u in variables]), table) for variables, table in self._remove(v)]
        # Layers repeat, and so do sums of the same tables.
        key = (self.sizes[v], len(place), *sorted([(at, id(table)) for at, table in held]))
        if key not in self._sums:
            total: Table = np.zeros([self.sizes[u] for u in place], held[0][1].dtype if held else np.int64)
            for at, table in held:
                total += _spread(table, at, len(place))
            least = total.min(axis=-1)
            self._sums[key] = (total, least if self._limits.cost is None else np.minimum(least, self._limits.cost), held)
            self._made += total.size
        total, least, _ = self._sums[key]
        self._buckets.append(_Bucket(v, around, total))
        self._add(around, least)


def conditioned(factor: Factor, fixed: Mapping[int, int]) -> Factor:
    """A table with some variables at fixed values."""
    variables, table = factor
    if not any(v in fixed for v in variables):
        return factor
    index = tuple(fixed[v] if v in fixed else slice(None) for v in variables)
    return tuple(v for v in variables if v not in fixed), np.asarray(table[index])


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
