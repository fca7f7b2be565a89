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

from .dual import Domains, Dual
from .joint import CORE, Joint
from .solver import Elimination, Factor, Limits, Sums, Table, conditioned
from .units import Units

ALONE = Limits(1 << 20, 1 << 17, made=1 << 22)
"""How far elimination goes where a function is solved on its own: what needs more than 32 MB is seldom done with it."""
_PASSES = 32
"""The number of passes of messages that find what each value of a variable costs at least."""
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
        return (self.cost - self.bound) / self.cost if self.bound < self.cost else 0.0


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

    def run(self, fixed: Mapping[int, int] | None = None, near: Mapping[int, int] | None = None) -> Solution:
        """The best solution found, with its bound; `fixed` variables keep the given value. What is solved together begins with `near`."""
        fixed = dict(fixed or {})
        alone = [self._alone(group, fixed) for group in range(len(self.groups))]
        width = max((solved.width for solved in alone), default=0)
        voted = None if any(solved.core for solved in alone) else self._voted(alone, fixed)
        if voted is None:
            for tables in (alone, self._cache, self._sums):  # large, and of no more use: what is not solved alone is solved together
                tables.clear()
            start = {v: (near or {}).get(v, 0) for v in self._order}
            return self._joint(fixed, {**start, **fixed}, 0, {}, width)
        choice, cost = voted
        bound = sum(solved.cost for solved in alone)
        if cost - bound <= bound * _CLOSE:
            return self._solution(choice, cost, bound, width)
        regrets: dict[int, Table] = {}
        for solved in alone:
            for v, regret in solved.regrets(solved.sizes).items():
                regrets[v] = regrets[v] + regret if v in regrets else regret
        return self._joint(fixed, choice, bound, {v: np.flatnonzero(r < cost - bound) for v, r in regrets.items()}, width)

    def _joint(self, fixed: dict[int, int], start: dict[int, int], bound: int, domains: Domains, width: int) -> Solution:
        """All functions as one problem: a better choice than `start`, among these values, and not below the bound."""
        factors = [conditioned(factor, fixed) for group in self.units.groups for factor in group]
        joint = Joint({v: self.sizes[v] for v in self._order if v not in fixed}, factors, self._order, self.units.infinite)
        joint.start(start)
        found = joint.run(bound, domains)
        return self._solution({**fixed, **found.choice}, found.cost, found.bound, max(width, found.width))

    def bounds(self, v: int) -> Table:
        """A cost for each value of `v` that no solution with it goes below."""
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

    def _voted(self, wishes: Sequence[Elimination], fixed: dict[int, int]) -> tuple[dict[int, int], int] | None:
        """Shared variables as most functions want them, everything else as then suits each function best, and what that costs.

        None where a function is not solved on its own.
        """
        votes: dict[int, Counter[int]] = {v: Counter() for v in self.shared}
        choices = [{**fixed, **solved.choice()} for solved in wishes]
        for choice in choices:
            for v in self.shared:
                if v in choice:
                    votes[v][choice[v]] += 1
        voted = {**fixed, **{v: max(sorted(count), key=count.__getitem__) for v, count in votes.items()}}
        found, cost = dict(voted), 0
        for group, (solved, choice) in enumerate(zip(wishes, choices, strict=True)):
            if any(choice.get(v, value) != value for v, value in voted.items()):
                solved = self._alone(group, voted)
                if solved.core:
                    return None
                choice = solved.choice()
            found.update(choice)
            cost += solved.cost
        return found, cost

    def _solution(self, choice: dict[int, int], units: int, bound: int, width: int) -> Solution:
        """The solution that a choice with its cost and bound in units is: a bound that it meets up to rounding is its cost."""
        cost = self.units.evaluate(choice)
        return Solution(choice, cost, cost if units - bound <= units * _CLOSE else cost * (bound / units), width)

    def _alone(self, group: int, fixed: Mapping[int, int]) -> Elimination:
        """A function on its own, as far as it is solved by elimination; what is fixed is no variable."""
        own = {v: fixed[v] for v in self.members[group] if v in fixed}
        key = (group, tuple(own.items()))
        if key not in self._cache:
            factors = [conditioned(factor, own) for factor in self.units.groups[group]] if own else self.units.groups[group]
            sizes = self._sizes([v for v in self.members[group] if v not in own])
            self._cache[key] = Elimination(sizes, factors, self._sums, limits=self.units.cut(ALONE))
        return self._cache[key]
