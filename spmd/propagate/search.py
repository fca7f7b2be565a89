"""The joint optimum of several functions that share weights.

Layers make a chain and functions make a row, so that eliminating all of them together would need a table over every function at once.
Instead each function is solved exactly on its own; the sum of these optima bounds the joint one from below. Where what most functions
want of the shared variables costs the others nothing, the bound is met. Else the regrets of each shared variable, added up over
the functions, say what to give it, and the one with the most unavoidable regret is branched on (branch and bound), at most
`MOST_BRANCHES` times; what then remains between bound and solution is reported as a gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .solver import Elimination, Factor, Sums, Table

MOST_BRANCHES = 64
MOST_ROUNDS = 3
"""How often a group that is too large to be solved at once is solved again around its best solution."""
MOST_AGAIN = 6_000
"""How many variables are solved for again at most, so that time stays linear."""
_CLOSE = 1e-9
"""Relative difference at which two costs are the same."""


@dataclass(frozen=True)
class Solution:
    """A value for each variable, the cost, and how far from the optimum it can be at most (0: it is the optimum)."""

    choice: dict[int, int]
    cost: float
    gap: float
    width: int
    conditioned: int


@dataclass(frozen=True)
class _Node:
    """A branch: shared variables fixed so far, with a lower bound, and the regrets of those still open."""

    bound: float
    fixed: dict[int, int]
    regrets: dict[int, Table]


class Search:
    """Minimizes the sum of `groups` of tables; variables in more than one group are shared."""

    def __init__(self, sizes: Sequence[int], groups: Sequence[Sequence[Factor]]) -> None:
        self.sizes, self.groups = sizes, groups
        self.members = [sorted({v for variables, _ in factors for v in variables}) for factors in groups]
        seen: dict[int, int] = {}
        for members in self.members:
            for v in members:
                seen[v] = seen.get(v, 0) + 1
        self.shared = [v for v in sorted(seen) if seen[v] > 1]
        self._sums: Sums = {}
        self._cache: dict[tuple[int, tuple[tuple[int, int], ...]], tuple[Elimination, dict[int, Table] | None]] = {}

    def run(self, fixed: Mapping[int, int] | None = None) -> Solution:
        """The best solution found, with its gap; `fixed` variables keep the given value."""
        fixed = dict(fixed or {})
        agreed = self._agreement(fixed)
        if agreed is not None:
            return agreed
        root = self._node(fixed)
        best_choice, best = self._complete(root)
        open_nodes = [root]
        branches = 0
        while open_nodes:
            node = min(open_nodes, key=lambda n: n.bound)
            if self._same(node.bound, best) or branches >= MOST_BRANCHES:
                break
            open_nodes.remove(node)
            branches += 1
            v = max(node.regrets, key=lambda u: (float(node.regrets[u].min()), float(np.sort(node.regrets[u])[:2].sum()), -u))
            for value in range(self.sizes[v]):
                if node.bound + float(node.regrets[v][value]) >= best and not self._same(best, node.bound):
                    continue
                child = self._node({**node.fixed, v: value})
                choice, cost = self._complete(child)
                if cost < best:
                    best_choice, best = choice, cost
                if child.bound < best and not self._same(child.bound, best) and child.regrets:
                    open_nodes.append(child)
        bound = min([n.bound for n in open_nodes if n.bound < best], default=best)
        return self._solution(best_choice, best, 0.0 if self._same(bound, best) else (best - bound) / best)

    def bounds(self, v: int) -> Table:
        """For each value of `v` a cost that no solution with it goes below."""
        least: Table = np.zeros(self.sizes[v])
        for group, members in enumerate(self.members):
            solved, _ = self._solve(group, {}, with_regrets=False)
            least = least + solved.cost
            if v in members:
                least = least + solved.regrets([v]).get(v, 0.0)
        return least

    def _agreement(self, given: dict[int, int]) -> Solution | None:
        """The solution when what most functions want, each on its own, costs the others nothing: nothing can be better."""
        wishes = [self._solve(group, given, with_regrets=False)[0] for group in range(len(self.groups))]
        bound = sum(solved.cost for solved in wishes)
        votes: dict[int, Counter[int]] = {v: Counter() for v in self.shared}
        for choice in (solved.choice for solved in wishes):
            for v in self.shared:
                if v in choice:
                    votes[v][choice[v]] += 1
        fixed = {v: max(sorted(count), key=count.__getitem__) for v, count in votes.items()}
        choice, cost = self._complete(_Node(bound, given, {}), {**given, **fixed})
        return self._solution(choice, cost, 0.0) if self._same(bound, cost) else None

    def _solution(self, choice: dict[int, int], cost: float, gap: float) -> Solution:
        solved = [s for s, _ in self._cache.values()]
        return Solution(choice, cost, gap, max(s.width for s in solved), max(len(s.conditioned) for s in solved))

    @staticmethod
    def _same(a: float, b: float) -> bool:
        return abs(a - b) <= _CLOSE * max(abs(a), abs(b))

    def _node(self, fixed: dict[int, int]) -> _Node:
        bound = 0.0
        regrets: dict[int, Table] = {v: np.zeros(self.sizes[v]) for v in self.shared if v not in fixed}
        for group in range(len(self.groups)):
            solved, own = self._solve(group, fixed, with_regrets=True)
            bound += solved.cost
            for v, regret in own.items():
                regrets[v] = regrets[v] + regret
        return _Node(bound, fixed, regrets)

    def _complete(self, node: _Node, fixed: dict[int, int] | None = None) -> tuple[dict[int, int], float]:
        """Shared variables as `fixed`, or at their least total regret; everything else as suits each function best."""
        if fixed is None:
            fixed = {**node.fixed, **{v: _lowest(r) for v, r in node.regrets.items()}}
        choice: dict[int, int] = {}
        cost = 0.0
        for group in range(len(self.groups)):
            solved, _ = self._solve(group, node.fixed, with_regrets=False)
            own = solved.choice
            if any(own[v] != value for v, value in fixed.items() if v in own):
                solved, _ = self._solve(group, fixed, with_regrets=False)
                own = solved.choice
            cost += solved.cost
            choice.update(own)
        return choice, cost

    def _eliminated(self, group: int, own: Mapping[int, int]) -> Elimination:
        """The optimum of a group; where that is out of reach, the best found by freeing what was fixed and fixing other variables."""
        sizes, factors = {v: self.sizes[v] for v in self.members[group]}, self.groups[group]
        best = Elimination(sizes, factors, own, self._sums)
        if best.conditioned:
            # The first candidate of a value is to hold it whole, or as was asked: with that everything can be done.
            plain = Elimination(sizes, factors, own, self._sums, guide=dict.fromkeys(sizes, 0))
            best = plain if plain.cost < best.cost else best
        spared: set[int] = set()
        for _ in range(min(MOST_ROUNDS, MOST_AGAIN // (len(sizes) or 1))):
            if not best.conditioned:
                break
            spared.update(best.conditioned)
            tried = Elimination(sizes, factors, own, self._sums, guide=best.choice, spared=spared)
            if tried.cost >= best.cost * (1 - _CLOSE) and set(tried.conditioned) <= spared:
                break
            best = tried if tried.cost <= best.cost else best
            spared.update(tried.conditioned)
        return best

    def _solve(self, group: int, fixed: Mapping[int, int], *, with_regrets: bool) -> tuple[Elimination, dict[int, Table]]:
        members = self.members[group]
        own = {v: fixed[v] for v in members if v in fixed}
        key = (group, tuple(own.items()))
        solved, regrets = self._cache.get(key, (None, None))
        if solved is None:
            solved = self._eliminated(group, own)
        if with_regrets and regrets is None:
            inside = set(members)
            regrets = solved.regrets(v for v in self.shared if v in inside and v not in own)
        self._cache[key] = (solved, regrets)
        return solved, regrets or {}


def _lowest(regret: Table) -> int:
    """The value of least regret; rounding does not decide between equal ones."""
    return int(np.argmax(regret <= regret.min() + _CLOSE * max(1e-30, float(np.abs(regret).max()))))
