"""The optimum of one sum of tables, however entangled: a dual bound, removal of values by what they cost at least, elimination of what is
left, and branch and bound. The work is bounded, so that a result may come with a bound below it; it is the same on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .dual import Costs, Dual
from .solver import Elimination, Factor, Limits

MOST_WORK = 1 << 32
"""Entries of tables that are gone through, in all branches."""
_PASSES = 8
"""Of messages, between two looks at what they show."""
_LOOKS = 12
"""How often that is looked at in one branch, as long as it gets better."""
_BETTER = 1 / 64
"""The part of the gap by which the bound must rise, or the solution fall, to go on."""
_FEWER = 3 / 4
"""The part of all values at which the problem is made anew without those that were removed."""
_SHORT = (6, 3, 2, 1)
"""How many of the best values of each variable a solution is looked for among."""
CORE, _AFTER = Limits(1 << 18, 1 << 12), Limits(1 << 20, 1 << 14)
"""What is eliminated before messages are passed, and where few values are left."""
_PER_MESSAGE = 4096
"""What a message costs besides its entries, in entries."""

Domains = Mapping[int, NDArray[np.intp]]
"""The values of a variable that are left, of those that lost some."""


@dataclass(frozen=True)
class Found:
    """The best choice that is known, its cost, and what no choice goes below."""

    choice: dict[int, int]
    cost: int
    bound: int
    width: int


class Joint:
    """Minimizes the sum of tables of integers over variables with values ``range(sizes[v])``.

    `order` ranks the variables as the program has them. `starts` are choices to be bettered; costs from `infinite` on are no solutions.
    """

    def __init__(self, sizes: Mapping[int, int], factors: Sequence[Factor], order: Mapping[int, int], infinite: int) -> None:
        self.sizes, self.factors, self.order, self.infinite = sizes, factors, order, infinite
        self.choice: dict[int, int] = dict.fromkeys(sizes, 0)
        self.cost = 1 << 62
        self.width = 0
        self.work = 0
        self._domains: dict[bytes, NDArray[np.intp]] = {}

    def start(self, choice: Mapping[int, int]) -> None:
        """Begin with a choice that is to be bettered."""
        self._better({v: choice[v] for v in self.sizes}, self.evaluate(choice))

    def evaluate(self, choice: Mapping[int, int]) -> int:
        """What a choice costs."""
        return sum(int(table[tuple([choice[v] for v in scope])]) for scope, table in self.factors)

    def run(self) -> Found:
        """Branch and bound, the lowest bound first, until nothing can be better or the work is done."""
        waiting: list[tuple[int, int, Domains]] = [(0, 0, {})]
        count = 0
        while waiting and waiting[0][0] < min(self.cost, self.infinite) and self.work < MOST_WORK:
            bound, _, domains = heapq.heappop(waiting)
            for below, child in self._branch(bound, domains):
                count += 1
                heapq.heappush(waiting, (below, count, child))
        return Found(self.choice, self.cost, min(waiting[0][0], self.cost) if waiting else self.cost, self.width)

    def _better(self, choice: dict[int, int], cost: int) -> None:
        if cost < self.cost:
            self.choice, self.cost = choice, cost

    def _branch(self, bound: int, domains: Domains) -> list[tuple[int, Domains]]:
        """Solve one branch; what is left of it is given as branches of it, each with what it costs at least."""
        limits = CORE
        while True:
            sizes = {v: len(domains[v]) if v in domains else n for v, n in self.sizes.items()}
            solved = Elimination(sizes, _sliced(self.factors, domains), limits=self._cut(limits))
            self.width = max(self.width, solved.width)
            if not solved.core:
                self._better(_whole(solved.choice(), domains), int(solved.cost))
                return []
            before = sum(sizes[v] for v in solved.core)
            found, regrets = self._messages(solved, domains)
            bound = max(bound, found)
            if bound >= self.cost or self.work >= MOST_WORK:
                return [(bound, domains)] if bound < self.cost else []
            domains = self._pruned(domains, regrets, self.cost - found)
            if any(not len(left) for left in domains.values()):
                return []
            if sum(len(domains[v]) if v in domains else self.sizes[v] for v in solved.core) > before * _FEWER:
                if limits is _AFTER:
                    return self._split(bound, domains, regrets)
                limits = _AFTER

    def _messages(self, solved: Elimination, domains: Domains) -> tuple[int, dict[int, Costs]]:
        """Pass messages over the core as long as that helps: the bound, and what values cost at least above it."""
        core = sorted(solved.core, key=self.order.__getitem__)
        sizes = {v: solved.sizes[v] for v in core}
        dual = Dual(core, sizes, solved.left, min(self.cost, self.infinite))
        bound, regrets = 0, dict[int, Costs]()
        for _ in range(_LOOKS):
            dual.run(_PASSES - 1)
            rounded = [dual.rounded()]
            dual.run(1)
            rounded.append(dual.rounded())
            before, cost = bound, self.cost
            bound, regrets = int(solved.cost) + dual.bound(), dual.regrets()
            self._round(solved, domains, rounded, regrets)
            self.work += dual.work
            dual.work = 0
            gap = self.cost - bound
            if gap <= 0 or self.work >= MOST_WORK:
                break
            left = sum(int(np.count_nonzero(r < gap)) for r in regrets.values())
            if left < _FEWER * sum(sizes.values()) or (bound - before) + (cost - self.cost) < _BETTER * gap:
                break
        return bound, regrets

    def _round(self, solved: Elimination, domains: Domains, near: Sequence[Mapping[int, int]], regrets: Mapping[int, Costs]) -> None:
        """Look for a solution around choices of the core: among these, the best that is known, and the best values of each variable."""
        left = solved.left
        for most in _SHORT:
            short: dict[int, NDArray[np.intp]] = {}
            for v, regret in regrets.items():
                known = np.flatnonzero((domains[v] if v in domains else np.arange(self.sizes[v])) == self.choice[v])
                best = np.argsort(regret, kind="stable")[:most]
                short[v] = self._one(np.unique(np.concatenate([best, known, [choice[v] for choice in near]])))
            tried = Elimination({v: len(values) for v, values in short.items()}, _sliced(left, short), limits=self._cut(CORE))
            self.work += _PER_MESSAGE * len(short)
            if not tried.core:
                choice = _whole(solved.choice(_whole(tried.choice(), short)), domains)
                self._better(choice, int(tried.cost) + int(solved.cost))
                return

    def _split(self, bound: int, domains: Domains, regrets: Mapping[int, Costs]) -> list[tuple[int, Domains]]:
        """Two branches: a variable has the value that seems best, or one of the others."""
        gap = self.cost - bound

        def key(v: int) -> tuple[int, int, int]:
            first, second = np.partition(regrets[v], 1)[:2]
            return int(min(second - first, gap)), int(np.count_nonzero(regrets[v] < gap)), -v

        v = max((v for v, r in regrets.items() if np.count_nonzero(r < gap) > 1), key=key)
        values = domains[v] if v in domains else np.arange(self.sizes[v])
        best = self._best_of(v, domains, regrets, values)
        here, others = values[values == best], values[values != best]
        return [(bound, {**domains, v: self._one(here)}), (bound, {**domains, v: self._one(others)})]

    def _best_of(self, v: int, domains: Domains, regrets: Mapping[int, Costs], values: NDArray[np.intp]) -> int:
        kept = self.choice[v]
        return kept if kept in values else int(values[0])

    def _pruned(self, domains: Domains, regrets: Mapping[int, Costs], gap: int) -> dict[int, NDArray[np.intp]]:
        """Without the values that cost as much more than the bound as the best solution does."""
        found = dict(domains)
        for v, regret in regrets.items():
            stays = np.flatnonzero(regret < gap)
            if len(stays) < len(regret):
                found[v] = self._one(domains[v][stays] if v in domains else stays)
        return found

    def _one(self, values: NDArray[np.intp]) -> NDArray[np.intp]:
        """Equal domains are one object."""
        return self._domains.setdefault(values.tobytes(), values)

    def _cut(self, limits: Limits) -> Limits:
        return replace(limits, cost=self.infinite * 16)


def _whole(choice: Mapping[int, int], domains: Domains) -> dict[int, int]:
    """A choice among values that are left, by the numbers of all values."""
    return {v: int(domains[v][x]) if v in domains else x for v, x in choice.items()}


def _sliced(factors: Sequence[Factor], domains: Domains) -> list[Factor]:
    """The tables over the values that are left; equal parts of one table are one table."""
    known: dict[tuple[int, ...], NDArray[np.int64]] = {}
    found: list[Factor] = []
    for scope, table in factors:
        if any(v in domains for v in scope):
            axes = [domains.get(v) for v in scope]
            key = (id(table), *map(id, axes))
            if key not in known:
                index = np.ix_(*[np.arange(n) if a is None else a for a, n in zip(axes, table.shape, strict=True)])
                known[key] = np.ascontiguousarray(table[index])
            table = known[key]
        found.append((scope, table))
    return found
