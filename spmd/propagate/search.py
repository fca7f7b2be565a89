"""The joint optimum of several functions that share weights.

Each function is solved exactly on its own where that is cheap; the sum of these optima bounds the joint one from below. Where what most
functions want of the shared variables costs the others nothing, the bound is met. Else all functions are one problem (`Joint`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .dual import Dual
from .joint import CORE, Joint
from .solver import Elimination, Factor, Limits, Sums, Table, conditioned
from .units import Units

ALONE = Limits(1 << 20, 1 << 17)
"""How far elimination goes where a function is solved on its own."""
_PASSES = 32
"""Of messages, for what each value of a variable costs at least."""
_CLOSE = 1e-9
"""Relative difference at which two costs are the same."""


@dataclass(frozen=True)
class Solution:
    """A value for each variable, the cost, and what no solution costs less than."""

    choice: dict[int, int]
    cost: float
    bound: float
    width: int
    """The most variables around one that was eliminated."""

    @property
    def gap(self) -> float:
        """How far from the optimum it can be at most, as a part of its cost (0: it is the optimum)."""
        return 0.0 if self.cost <= 0 or self.cost - self.bound <= _CLOSE * self.cost else (self.cost - self.bound) / self.cost


class Search:
    """Minimizes the sum of `groups` of tables; variables in more than one group are shared."""

    def __init__(self, sizes: Sequence[int], groups: Sequence[Sequence[Factor]]) -> None:
        self.sizes, self.groups = sizes, groups
        self.members = [sorted({v for variables, _ in factors for v in variables}) for factors in groups]
        seen = Counter(v for members in self.members for v in members)
        self.shared = [v for v in sorted(seen) if seen[v] > 1]
        self.units = Units(groups)
        self._sums: Sums = {}
        self._cache: dict[tuple[int, tuple[tuple[int, int], ...]], Elimination] = {}

    def run(self, fixed: Mapping[int, int] | None = None) -> Solution:
        """The best solution found, with its bound; `fixed` variables keep the given value."""
        fixed = dict(fixed or {})
        wishes = [self._alone(group, fixed) for group in range(len(self.groups))]
        exact = all(not solved.core for solved in wishes)
        width = max((solved.width for solved in wishes), default=0)
        voted = self._voted(wishes, fixed) if exact else {}
        if exact:
            cost = sum(self._alone(group, voted).cost for group in range(len(self.groups)))
            if cost <= sum(solved.cost for solved in wishes):
                return self._solution(voted, None, width)
        joint = Joint(*self._together(fixed), self._order, self.units.infinite)
        joint.start(dict.fromkeys(joint.sizes, 0))
        if exact:
            joint.start(voted)
        found = joint.run()
        return self._solution({**fixed, **found.choice}, None if found.bound >= found.cost else found.bound, max(width, found.width))

    def bounds(self, v: int) -> Table:
        """For each value of `v` a cost that no solution with it goes below."""
        least: Table = np.zeros(self.sizes[v])
        for group, members in enumerate(self.members):
            solved = self._alone(group, {})
            if v not in members or not solved.core:
                least = least + self.units.seconds(solved.cost + (solved.regrets([v])[v] if v in members else 0))
                continue
            solved = Elimination(self._sizes(members), self.units.groups[group], self._sums, kept={v}, limits=self.units.cut(CORE))
            core = sorted(solved.core, key=self._order.__getitem__)
            dual = Dual(core, {u: self.sizes[u] for u in core}, solved.left, self.units.infinite)
            dual.run(_PASSES)
            bound, regrets = dual.look()
            least = least + self.units.seconds(solved.cost + bound + np.maximum(regrets[v], 0))
        return least

    @cached_property
    def _order(self) -> dict[int, int]:
        """Variables ranked as the program has them."""
        found: dict[int, int] = {}
        for factors in self.groups:
            for scope, _ in factors:
                for v in scope:
                    found.setdefault(v, len(found))
        return found

    def _sizes(self, variables: Sequence[int]) -> dict[int, int]:
        return {v: self.sizes[v] for v in variables}

    def _together(self, fixed: Mapping[int, int]) -> tuple[dict[int, int], list[Factor]]:
        """All functions as one problem."""
        factors = [conditioned(factor, fixed) for group in self.units.groups for factor in group]
        return {v: self.sizes[v] for v in self._order if v not in fixed}, factors

    def _voted(self, wishes: Sequence[Elimination], fixed: dict[int, int]) -> dict[int, int]:
        """Shared variables as most functions want them, everything else as then suits each function best."""
        votes: dict[int, Counter[int]] = {v: Counter() for v in self.shared}
        choices = [{**fixed, **solved.choice()} for solved in wishes]
        for choice in choices:
            for v in self.shared:
                if v in choice:
                    votes[v][choice[v]] += 1
        voted = {**fixed, **{v: max(sorted(count), key=count.__getitem__) for v, count in votes.items()}}
        found = dict(voted)
        for group, choice in enumerate(choices):
            differs = any(choice.get(v, value) != value for v, value in voted.items())
            found.update(self._alone(group, voted).choice() if differs else choice)
        return found

    def _solution(self, choice: dict[int, int], bound: int | None, width: int) -> Solution:
        """Of a choice, that is the optimum where there is no bound below it."""
        cost = self.units.evaluate(choice)
        return Solution(choice, cost, cost if bound is None else min(cost, float(self.units.seconds(bound))), width)

    def _alone(self, group: int, fixed: Mapping[int, int]) -> Elimination:
        """A function on its own, as far as it is solved by elimination; what is fixed is no variable."""
        own = {v: fixed[v] for v in self.members[group] if v in fixed}
        key = (group, tuple(own.items()))
        if key not in self._cache:
            factors = [conditioned(factor, own) for factor in self.units.groups[group]] if own else self.units.groups[group]
            sizes = self._sizes([v for v in self.members[group] if v not in own])
            self._cache[key] = Elimination(sizes, factors, self._sums, limits=self.units.cut(ALONE))
        return self._cache[key]
