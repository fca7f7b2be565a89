"""The optimum of one sum of tables, however entangled: a dual bound, removal of values by what they cost at least, elimination of what is
left, and branch and bound. The work is bounded, so that a result may come with a bound below it; it is the same on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .dual import Costs, Domains, Dual
from .solver import Elimination, Factor, Limits

MOST_WORK = 1 << 32
"""Entries of tables that are gone through, in all branches."""
NEAR = 1e-3
"""The gap, as a part of the cost, at which half of that is enough: the other half seldom betters what is so near."""
_GUESSES = (1 / 512, 1 / 64, 1 / 8)
"""Where the gap is wide, the optimum is looked for within these parts of it above the bound, one after the other."""
_GUESSING = 4
"""How often the work of the first branch a guess may take."""
_PASSES = 8
"""The passes of messages between two looks at what they show."""
_BETTER = 1 / 64
"""The part of the gap by which the bound must rise, or the solution fall, to go on."""
_CLOSE = 500
"""Parts in 10^12 by which a choice must be better to be worth a search: costs are rounded."""
_FEWER = 3 / 4
"""The part of all values at which the problem is made anew without those that were removed."""
_SHORT = (6, 3, 2, 1)
"""How many of the best values of each variable a solution is looked for among."""
CORE, _AFTER = Limits(1 << 18, 1 << 12), Limits(1 << 20, 1 << 14)
"""What is eliminated before messages are passed, and where few values are left."""
_PER_MESSAGE = 4096
"""What a message costs besides its entries, in entries."""


@dataclass(frozen=True)
class Found:
    """The best choice that is known, its cost, and what no choice goes below."""

    choice: dict[int, int]
    cost: int
    bound: int
    width: int


_Branch = tuple[int, int, Domains]
"""What no choice in a branch goes below, a number that tells branches apart, and the values that are left in it."""


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
        self.short = 0
        """The first of `_SHORT` that is tried: one above that which was not too many the last time."""
        self._branches = 0
        self._guess, self._until = 1 << 62, MOST_WORK
        self._domains: dict[bytes, NDArray[np.intp]] = {}

    def start(self, choice: Mapping[int, int]) -> None:
        """Begin with a choice that is to be bettered."""
        self.better({v: choice[v] for v in self.sizes}, self.evaluate(choice))

    def evaluate(self, choice: Mapping[int, int]) -> int:
        """What a choice costs."""
        return sum(int(table[tuple([choice[v] for v in scope])]) for scope, table in self.factors)

    def run(self, bound: int = 0, domains: Domains | None = None) -> Found:
        """Branch and bound, the lowest bound first, until nothing can be better or the work is done.

        `domains` are the values that a better choice than the one to start with can have, and `bound` is what none goes below.
        """
        given = {v: self.one(values) for v, values in (domains or {}).items()}
        waiting: list[_Branch] = [(bound, 0, given)] if all(map(len, given.values())) else []
        waiting = self._guessed(self._search(waiting, 1))
        waiting = self._search(waiting)
        return Found(self.choice, self.cost, min(waiting[0][0], self.cost) if waiting else self.cost, self.width)

    def _search(self, waiting: list[_Branch], most: int | None = None) -> list[_Branch]:
        """Go on with these branches, `most` of them; gives those that are left."""
        waiting = list(waiting)
        while waiting and waiting[0][0] < min(self.enough, self.infinite) and not self.is_done(waiting[0][0]) and most != 0:
            bound, _, left = heapq.heappop(waiting)
            most = None if most is None else most - 1
            for below, child in self._branch(bound, left):
                self._branches += 1
                heapq.heappush(waiting, (below, self._branches, child))
        return waiting

    def _guessed(self, waiting: list[_Branch]) -> list[_Branch]:
        """Look for the optimum where it would be were the bound nearly met: there, most values of all variables are removed at once.

        What is found there is the optimum; where nothing is, nothing goes below the guess.
        """
        work = self.work
        for part in _GUESSES:
            if not waiting or self.cost - waiting[0][0] <= self.cost * NEAR:
                break
            bound = waiting[0][0]
            self._guess, self._until = bound + int((self.cost - bound) * part), self.work + _GUESSING * work
            left = self._search(waiting)
            found, done = self.cost <= self._guess, not left or left[0][0] >= self.enough
            if found:
                waiting = left
            elif done:
                waiting = [(max(below, self._guess), count, domains) for below, count, domains in waiting]
            self._guess, self._until = 1 << 62, MOST_WORK
        return waiting

    @property
    def enough(self) -> int:
        """The cost that a choice must go below to be looked for: less by more than rounding than the best, and than what is guessed."""
        return min(self.cost - self.cost * _CLOSE // 1_000_000_000_000, self._guess)

    def better(self, choice: dict[int, int], cost: int) -> None:
        """Remember a choice where it is the best so far."""
        if cost < self.cost:
            self.choice, self.cost = choice, cost

    def _branch(self, bound: int, domains: Domains) -> list[tuple[int, Domains]]:
        """Solve one branch; what is left of it is given as branches of it, each with what it costs at least."""
        limits = CORE
        while True:
            sizes = {v: len(domains[v]) if v in domains else n for v, n in self.sizes.items()}
            solved = Elimination(sizes, _sliced(self.factors, domains), limits=self.cut(limits))
            self.width = max(self.width, solved.width)
            if not solved.core:
                self.better(_whole(solved.choice(), domains), int(solved.cost))
                return []
            core = _Core(self, solved, domains)
            core.run()
            bound, domains = max(bound, core.bound), {**domains, **{v: self.one(core.values(v)) for v in core.left}}
            if bound >= self.enough:
                return []
            if self.is_done(bound):
                return [(bound, domains)]
            is_stuck = limits is _AFTER and sum(core.dual.sizes.values()) > _FEWER * sum(sizes[v] for v in solved.core)
            if is_stuck and any(len(regret) > 1 for regret in core.regrets.values()):
                return self._split(bound, domains, core.regrets)
            limits = _AFTER

    def _split(self, bound: int, domains: Domains, regrets: Mapping[int, Costs]) -> list[tuple[int, Domains]]:
        """Two branches: a variable has the value of the best solution, or one of the others."""
        gap = self.enough - bound

        def key(v: int) -> tuple[int, int, int]:
            first, second = np.partition(regrets[v], 1)[:2]
            return int(min(second - first, gap)), len(regrets[v]), -v

        v = max((v for v, regret in regrets.items() if len(regret) > 1), key=key)
        values = domains[v] if v in domains else np.arange(self.sizes[v])
        best = self.choice[v] if self.choice[v] in values else int(values[regrets[v].argmin()])
        return [(bound, {**domains, v: self.one(some)}) for some in (values[values == best], values[values != best])]

    def is_done(self, bound: int) -> bool:
        """Whether the work is done, with what no choice goes below."""
        return self.work >= min(MOST_WORK // 2 if self.cost - bound <= self.cost * NEAR else MOST_WORK, self._until)

    def one(self, values: NDArray[np.intp]) -> NDArray[np.intp]:
        """Equal domains are one object."""
        return self._domains.setdefault(values.tobytes(), values)

    def cut(self, limits: Limits) -> Limits:
        """The limits of an elimination over these costs."""
        return replace(limits, cost=self.infinite * 16)


class _Core:
    """What elimination leaves of a branch: messages are passed over it, and values removed, as long as that helps."""

    def __init__(self, joint: Joint, solved: Elimination, domains: Domains) -> None:
        self.joint, self.solved, self.domains = joint, solved, domains
        order = sorted(solved.core, key=joint.order.__getitem__)
        self.dual = Dual(order, {v: solved.sizes[v] for v in order}, solved.left, min(joint.cost, joint.infinite))
        self.left: dict[int, NDArray[np.intp]] = {}
        """The values that are not removed, of variables that lost some, by their numbers among those of the branch."""
        self.bound = 0
        self.regrets: dict[int, Costs] = {}

    def values(self, v: int) -> NDArray[np.intp]:
        """The values of a variable that are left, by their numbers among all."""
        found = self.domains[v] if v in self.domains else np.arange(self.joint.sizes[v])
        return found[self.left[v]] if v in self.left else found

    def run(self) -> None:
        """Go on until the bound is met, half of the values are gone, or little changes."""
        joint, dual = self.joint, self.dual
        before = sum(dual.sizes.values())
        while True:
            near: list[dict[int, int]] = []
            for passes in (_PASSES - 1, 1):  # rounded once forth and once back
                dual.run(passes)
                near.append(_whole(dual.rounded(), self.left))
            least, self.regrets = dual.look()
            bound, cost = int(self.solved.cost) + least, joint.cost
            if not self.bound or 2 * (joint.enough - bound) > joint.enough - self.bound:
                self._round(near)  # else the bound comes to the solution that is known
            joint.work, dual.work = joint.work + dual.work, 0
            gap, rise = joint.enough - bound, max(bound - self.bound, 0)
            self.bound = max(self.bound, bound)
            if self.bound >= joint.enough or not self._remove(gap):
                self.bound = max(self.bound, joint.enough)
                return
            if 8 * sum(dual.sizes.values()) < before or rise + cost - joint.cost < _BETTER * gap or joint.work >= MOST_WORK:
                return
            if rise < _BETTER * gap and joint.is_done(self.bound):
                return

    def _remove(self, gap: int) -> bool:
        """Remove the values that cost as much more than the bound as the best solution does; False where none is left."""
        stay = {v: self.joint.one(np.flatnonzero(r < gap)) for v, r in self.regrets.items() if r.max() >= gap}
        if any(not len(values) for values in stay.values()):
            return False
        self.dual.restrict(stay)
        for v, values in stay.items():
            self.regrets[v] = self.regrets[v][values]
            self.left[v] = self.joint.one(self.left[v][values] if v in self.left else values)
        return True

    def _round(self, near: Sequence[Mapping[int, int]]) -> None:
        """Look for a solution around choices of the core: among these, the best that is known, and the best values of each variable."""
        joint, left = self.joint, self.solved.left
        for most in _SHORT[joint.short :]:
            short: dict[int, NDArray[np.intp]] = {}
            for v, regret in self.regrets.items():
                best = np.argsort(regret, kind="stable")[:most]
                known = [choice[v] for choice in near] + [i for i in [self._known(v)] if i >= 0]
                short[v] = joint.one(np.unique(np.append(self.left[v][best] if v in self.left else best, known)))
            tried = Elimination({v: len(values) for v, values in short.items()}, _sliced(left, short), limits=joint.cut(CORE))
            joint.work += _PER_MESSAGE * len(short)
            if not tried.core:
                choice = self.solved.choice(_whole(tried.choice(), short))
                joint.better(_whole(choice, self.domains), int(tried.cost) + int(self.solved.cost))
                joint.short = max(_SHORT.index(most) - 1, 0)
                return

    def _known(self, v: int) -> int:
        """The value of a variable in the best solution, by its number in the branch; -1 where that is not among its values."""
        best = self.joint.choice[v]
        if v not in self.domains:
            return best
        at = int(np.searchsorted(self.domains[v], best))
        return at if at < len(self.domains[v]) and self.domains[v][at] == best else -1


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
