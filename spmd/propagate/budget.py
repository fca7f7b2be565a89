"""The fastest plan that fits into the memory of a worker.

Where the fastest plan of all does not fit, bytes get a price in seconds: that keeps the problem a sum of tables, which the search
solves as before. The price rises as far as it must. What is then the fastest plan seen that fits need not be the optimum, but the
price bounds what any plan that fits can reach; branch and bound on what is held closes the gap where the problem is small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spmd.costs.cost import INFEASIBLE, Cost
from spmd.errors import ShardingError
from spmd.program.graph import Graph, Value

from .decide import Decision, decide
from .leanest import find_leanest
from .memory import RESIDENT, Usage, resident_bytes
from .memory_error import gigabytes, nothing_fits
from .problem import Problem
from .search import Search, Solution
from .solver import Factor, Table

MOST_MOMENTS = 6
"""How many moments at which too much is held are looked at, each with a price on what is held then."""
_MOST_PRICES = 12
_BRANCHING, _EACH = 4_000_000, 256
"""Branches times entries of all tables, and what a table takes besides, in entries: what is small is solved to the end."""
_HOPELESS = 1000
"""Branches after which no plan is looked for any more where none has fitted: what kernels fuse has no price, and a proof may take long."""
_FEW = 64
"""Branches that are too few to find what fits where no price did, when something else is known that does."""
_LOOKED_AT = 8000
"""Operators of all plans that are looked at to find the leanest; of small programs, every branch."""
_CLOSE = 1e-9
_LARGE = 1e5
"""Seconds that all bytes cost where nothing but bytes counts: far above times, far below what cannot be done."""


def decide_within(graph: Graph, cost: Cost) -> Decision:
    """The placement of least predicted time whose memory is at most ``cost.memory``.

    Raises `ShardingError` naming the largest residents where nothing fits.
    """
    made = decide(graph, cost)
    if cost.memory is None:
        return made
    usage = Usage(made.problem, made.solution.choice)
    if usage.peak <= cost.memory:
        return made
    search = Fit(graph, cost, cost.memory, made, usage)
    found = search.run()
    if found is None:
        raise search.error()
    return found


@dataclass(frozen=True)
class _Tried:
    """A solution for some price: its time without the price, what is priced in it, and what it needs in truth."""

    decision: Decision
    seconds: float
    bytes: float
    usage: Usage


class Fit:
    """The search for a plan that fits, where the fastest does not, and that takes less than `limit` seconds."""

    def __init__(self, graph: Graph, cost: Cost, budget: float, fastest: Decision, usage: Usage, limit: float = np.inf) -> None:
        self.graph, self.cost, self.budget, self.limit = graph, cost, budget, limit
        self.fastest = _Tried(fastest, fastest.solution.cost, 0.0, usage)
        self.moments: list[dict[Value, float]] = []
        self._searches: dict[float, Search] = {}
        self._flat: dict[int, tuple[Table, Table]] = {}
        self._last = fastest.solution.choice
        """The last solution: the next one is near it."""
        self.best: _Tried | None = None
        self.leanest = usage
        self._bounded = 0.0
        """What no plan that fits goes below, once it was searched for."""

    def run(self) -> Decision | None:
        """The fastest plan found that fits, with what it may lack to the optimum; None where none is found within the limit."""
        if self.fastest.seconds >= self.limit:
            return None
        self._add_moment(self.fastest.usage)
        lean = self._lean()
        bound = self._bounded = np.inf if lean is None else self._branch(self._best_price(lean))
        best = self.best
        if best is None:
            return None
        bound = max(bound, self.fastest.decision.solution.bound)
        note = (
            f"the fastest plan needs {gigabytes(self.fastest.usage.peak)} a worker, and {gigabytes(self.budget)} are there: "
            f"this one needs {gigabytes(best.usage.peak)} and takes {best.seconds * 1e6:.1f} us, not {self.fastest.seconds * 1e6:.1f} us"
        )
        solution = replace(best.decision.solution, cost=best.seconds, bound=min(bound, best.seconds))
        return Decision(best.decision.problem, solution, [*best.decision.notes, note])

    def error(self, proven: bool = True) -> ShardingError:
        """What is said where nothing was found: the leanest plan. Where something else may hold less, nothing is `proven`."""
        least = self._least()
        if not proven:
            return nothing_fits(self.leanest, self.budget, 0.0)
        return nothing_fits(self.leanest, self.budget, max(least, self.budget + 1) if self._bounded == np.inf else least)

    def _add_moment(self, usage: Usage) -> bool:
        """Price what is held when this plan holds the most; False where that is done already."""
        moment = dict.fromkeys(usage.timelines[usage.worst].moment(), 1.0) if usage.worst else {}
        if moment in self.moments:
            return False
        self.moments.append(moment)
        self._searches.clear()
        self._weights = {
            v: sum(moment.get(v, 0.0) for moment in self.moments) / len(self.moments)
            for v in dict.fromkeys(v for moment in self.moments for v in moment)
        }
        return True

    def _lean(self) -> _Tried | None:
        """A plan that fits, found by how little its values hold; or, where conversions make that too much, the first that fits as the
        price of bytes rises, or the one at the last price. None where what must be held is too much, or takes more than the limit.
        """
        while True:
            lean = self._solve(None)
            if self._held(lean) > self.budget:
                return None
            if lean.usage.peak <= self.budget:
                return lean
            if len(self.moments) >= MOST_MOMENTS or not self._add_moment(lean.usage):
                break
        price = max(self.fastest.seconds, 1e-9) / max(self.fastest.usage.peak, 1) / 64
        for _ in range(_MOST_PRICES // 2):
            lean = self._at(price)
            if self._bound(lean, price) >= self.limit:
                return None
            if self.best is not None or lean.seconds >= self.limit:
                break
            price *= 16
        return lean

    def _least(self) -> float:
        """Look for the leanest plan there is; gives bytes that no plan goes below."""
        least = 0.0
        while least < self.leanest.peak:
            lean = self._solve(None)
            least = max(least, self._held(lean))
            if len(self.moments) >= MOST_MOMENTS or not self._add_moment(lean.usage):
                break

        def solve(fixed: Mapping[int, int]) -> tuple[Usage | None, float]:
            tried = self._solve(None, fixed)
            return tried.usage if tried.seconds < INFEASIBLE else None, max(self._held(tried), least)

        limit = _LOOKED_AT // max(sum(len(function.nodes) for function in self.graph.functions.values()), 1)
        self.leanest, least = find_leanest(self.fastest.decision.problem, self.leanest, solve, limit, self.budget)
        return least

    def _held(self, lean: _Tried) -> float:
        """What no plan holds less than, from the least that values hold: whole bytes."""
        solution = lean.decision.solution
        return np.ceil((lean.bytes - (solution.cost - solution.bound) / self._dear()) * (1 - _CLOSE))

    def _best_price(self, leanest: _Tried) -> float:
        """The price between the fastest plan and the leanest at which what fits and what does not cost the same."""
        fast = self._at(0.0)
        lean, price = leanest, 0.0
        for _ in range(_MOST_PRICES):
            if fast.bytes <= lean.bytes or lean.seconds <= fast.seconds:
                break
            price = (lean.seconds - fast.seconds) / (fast.bytes - lean.bytes)
            found = self._at(price)
            total = found.seconds + price * found.bytes
            if total >= (fast.seconds + price * fast.bytes) * (1 - _CLOSE):
                break
            if found.usage.peak <= self.budget:
                lean = found
            else:
                fast = found
        return price

    def _branch(self, price: float) -> float:
        """Branch and bound on what is priced, at this price and at none; gives what no plan that fits goes below."""
        problem, bound = self.fastest.decision.problem, self._bound(self.fastest, 0.0)
        waiting: list[tuple[float, int, dict[int, int]]] = [(bound, 0, {})]
        limit = max(_BRANCHING // max(sum(table.size + _EACH for group in problem.groups.values() for _, table in group), 1), 1)
        if limit < _FEW and self.best is None and self.limit < np.inf:
            return bound
        count = 0
        while waiting:
            waiting.sort(key=lambda branch: branch[:2])
            bound, _, fixed = waiting[0]
            if bound >= self._limit():
                return bound
            if count >= limit or (self.best is None and count >= _HOPELESS):
                break
            waiting.pop(0)
            count += 1
            free = self._at(0.0, fixed)
            priced = self._at(price, fixed) if price else free
            if free.seconds >= INFEASIBLE:
                continue
            bound = max(bound, self._bound(free, 0.0), self._bound(priced, price))
            if bound >= self._limit() or free.usage.peak <= self.budget:
                continue
            v = self._widest(problem, free, priced, fixed)
            if v is None:
                continue
            waiting += [(bound, count, {**fixed, v: i}) for i in range(problem.sizes[v])]
        return min([b for b, _, _ in waiting], default=np.inf)

    def _limit(self) -> float:
        return self.limit if self.best is None else self.best.seconds * (1 - _CLOSE)

    def _widest(self, problem: Problem, free: _Tried, priced: _Tried, fixed: Mapping[int, int]) -> int | None:
        """The variable whose bytes two solutions differ in most; of equal ones, that with most bytes at stake; then strategies. None if all
        are fixed.
        """
        found: tuple[tuple[float, float], int] | None = None
        for v, value in enumerate(problem.values):
            if v in fixed or problem.sizes[v] < 2:
                continue
            held = self._bytes(problem, value) * self._weight(value)  # what has no price may still be converted to something large
            differs = abs(held[free.decision.solution.choice.get(v, 0)] - held[priced.decision.solution.choice.get(v, 0)])
            key = (float(differs), float(max(held) - min(held)))
            if found is None or key > found[0]:
                found = (key, v)
        strategies = range(len(problem.values), len(problem.sizes))
        return found[1] if found else next((v for v in strategies if v not in fixed), None)

    def _bound(self, tried: _Tried, price: float) -> float:
        """What no plan that fits goes below, from the optimum at a price: it holds less than the budget."""
        return tried.decision.solution.bound - price * self.budget

    def _at(self, price: float, fixed: Mapping[int, int] | None = None) -> _Tried:
        """The optimum at a price; the best plan that fits is remembered."""
        return self._solve(price, fixed)

    def _solve(self, price: float | None, fixed: Mapping[int, int] | None = None) -> _Tried:
        """The optimum at a price for each byte; without a price, of the bytes alone."""
        problem, notes = self.fastest.decision.problem, self.fastest.decision.notes
        if price == 0.0 and not fixed:
            return self.fastest
        key = -1.0 if price is None else price
        if key not in self._searches:
            self._searches[key] = Search(problem.sizes, self._tables(problem, price))
        solution = self._searches[key].run(fixed, self._last)
        self._last = solution.choice
        seconds = _time(problem, solution)
        held = sum(
            self._weight(v) * self._bytes(problem, v)[solution.choice.get(i, 0)] for i, v in enumerate(problem.values) if self._weight(v)
        )
        tried = _Tried(Decision(problem, solution, notes), seconds, held, Usage(problem, solution.choice))
        if seconds < INFEASIBLE and tried.usage.peak < self.leanest.peak:
            self.leanest = tried.usage
        if seconds < INFEASIBLE and tried.usage.peak <= self.budget and seconds < self._limit():
            self.best = tried
        return tried

    def _tables(self, problem: Problem, price: float | None) -> Sequence[Sequence[Factor]]:
        groups = {name: list(factors) for name, factors in problem.groups.items()}
        if price is None:
            groups = {name: [(variables, self._without_times(table)) for variables, table in f] for name, f in groups.items()}
            price = self._dear()
        for i, value in enumerate(problem.values):
            if problem.sizes[i] > 1 and self._weight(value):
                groups[value.function].append(((i,), self._bytes(problem, value) * (price * self._weight(value))))
        return list(groups.values())

    def _dear(self) -> float:
        """The price of a byte where nothing but bytes counts."""
        problem = self.fastest.decision.problem
        return _LARGE / max(sum(max(self._bytes(problem, v)) for v in problem.values), 1)

    def _without_times(self, table: Table) -> Table:
        if id(table) not in self._flat:
            self._flat[id(table)] = (np.where(table >= INFEASIBLE, INFEASIBLE, 0.0), table)
        return self._flat[id(table)][0]

    def _weight(self, value: Value) -> float:
        if value in self.fastest.usage.caches or (value.is_tensor and value.role in RESIDENT):
            return 1.0
        return self._weights.get(value, 0.0)

    def _bytes(self, problem: Problem, value: Value) -> Table:
        """What each way to keep a value holds of it."""
        shardings = problem.shardings(value)
        if not self._weight(value):
            return np.zeros(len(shardings))
        return np.array([resident_bytes(problem, value, s, self.fastest.usage.caches) for s in shardings], dtype=float)


def _time(problem: Problem, solution: Solution) -> float:
    """The predicted time of a solution."""
    choice = solution.choice
    return sum(float(table[tuple([choice[v] for v in variables])]) for group in problem.groups.values() for variables, table in group)
