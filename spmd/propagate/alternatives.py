"""What else a value could have been: the plan solved again with the value held so, and the difference in predicted time."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from spmd.costs.cost import INFEASIBLE
from spmd.placement.sharding import Sharding
from spmd.placement.spec import Constraint
from spmd.plan.decisions import Alternative
from spmd.program.graph import Branch, Function, Graph, Node, Value, with_value

from .budget import decide_within
from .decide import Decision
from .memory import Usage
from .search import Search, Solution

MOST_SOLVED = 16
"""Shardings of a value for which the problem is solved again, those of the least lower bound first."""
SMALL = 1000
"""Variables of a problem that is solved again for more shardings than the best one."""


@dataclass(frozen=True)
class _Times:
    """Seconds of a solution: of each operator with the conversions around it, of all operators, of all conversions."""

    nodes: Sequence[tuple[Node, float]]
    operators: float
    conversions: float


class Alternatives:
    """Answers from the problem that a plan was the solution of."""

    def __init__(self, decision: Decision, values: Mapping[str, Value], ends: Mapping[str, tuple[Function, int]]) -> None:
        self._problem, self._solution = decision.problem, decision.solution
        self._values, self._ends = values, ends
        self._turn = threading.RLock()

    def of(self, name: str) -> list[Alternative]:
        """The other shardings of a value, the best first: exact as far as it decides which is the best, then lower bounds."""
        with self._turn:
            return self._of(name)

    def _of(self, name: str) -> list[Alternative]:
        problem, value = self._problem, self._values.get(name)
        v = problem.number.get(value) if value is not None else None
        if value is None or v is None or problem.sizes[v] == 1:
            return []
        shardings, kept = problem.shardings(value), problem.sharding(value, self._solution.choice)
        others = [sharding for sharding in dict.fromkeys(shardings) if sharding != kept]
        if not any(v in members for members in self._search.members):
            return [Alternative(sharding, 0.0) for sharding in others]
        bounds = self._search.bounds(v)
        # A value may be kept so in several ways: with second placements, too.
        best_of = {other: min((i for i, s in enumerate(shardings) if s == other), key=lambda i: float(bounds[i])) for other in others}
        order = sorted(best_of.values(), key=lambda i: (float(bounds[i]), i))
        now = self._now.operators + self._now.conversions
        found: list[Alternative] = []
        for n, i in enumerate(order):
            least = math.inf if bounds[i] >= INFEASIBLE else float(bounds[i]) - now
            best = min((a.seconds for a in found if a.fits), default=math.inf)
            if n < MOST_SOLVED and (least < best or len(problem.sizes) < SMALL):
                found.append(self._solved(v, i))
            else:
                found.append(Alternative(shardings[i], least, is_bound=least < math.inf))
        return sorted(found, key=lambda a: a.seconds)

    def lifted(self, name: str) -> Alternative | None:
        """What the value would be without the constraint on it, and the time (less than none) that takes; None where it has none."""
        with self._turn:
            return self._lifted(name)

    def _lifted(self, name: str) -> Alternative | None:
        graph, cost = self._problem.graph, self._problem.cost
        value = self._values.get(name)
        if name in self._ends:
            function, i = self._ends[name]
            value, _, _ = function.at_end[i]
            free = Constraint((None,) * len(value.shape), frozenset(range(len(value.shape))))
            at_end = [(value, free, "") if at == i else end for at, end in enumerate(function.at_end)]
            others = {**graph.functions, function.name: replace(function, at_end=at_end)}
            decision = decide_within(Graph(graph.module, others, graph.values), cost)
            then = Alternatives(decision, {}, {})._now
            return self._compared(decision.problem.at_end(value, free, decision.solution.choice), then)
        if value is None or value.wanted is None or value.role == "constant":
            return None
        freed = replace(value, wanted=None)
        decision = decide_within(with_value(graph, value, freed), cost)
        return self._compared(decision.problem.sharding(freed, decision.solution.choice), Alternatives(decision, {}, {})._now)

    def _solved(self, v: int, i: int) -> Alternative:
        """The best plan with variable `v` at its value number `i`."""
        sharding = self._problem.shardings(self._problem.values[v])[i]
        solution = self._search.run({v: i})
        if solution.cost >= INFEASIBLE:
            return Alternative(sharding, math.inf)
        needed, there = Usage(self._problem, solution.choice).peak, self._problem.cost.memory
        found = self._compared(sharding, self._times(solution))
        return replace(found, memory=needed, fits=there is None or needed <= there, gap=solution.gap)

    def _compared(self, sharding: Sharding, then: _Times) -> Alternative:
        now = self._now
        operators, conversions = then.operators - now.operators, then.conversions - now.conversions
        change = [(node, after - before) for (node, before), (_, after) in zip(now.nodes, then.nodes, strict=True)]
        most, most_seconds = max(change, key=lambda pair: abs(pair[1]), default=(None, 0.0))
        if most is None or not most_seconds:
            return Alternative(sharding, operators + conversions, operators, conversions)
        where = f"{most.op} {most.name!r} of {most.function!r}"
        return Alternative(sharding, operators + conversions, operators, conversions, where, most_seconds)

    @cached_property
    def _search(self) -> Search:
        return Search(self._problem.sizes, list(self._problem.groups.values()))

    @cached_property
    def _now(self) -> _Times:
        return self._times(self._solution)

    def _times(self, solution: Solution) -> _Times:
        problem, cost, choice = self._problem, self._problem.cost, solution.choice
        known: dict[tuple[int, int], float] = {}
        nodes: list[tuple[Node, float]] = []
        operators = conversions = 0.0
        converted: set[tuple[Value, Sharding, Branch]] = set()

        def taken(value: Value, wanted: Sharding, branch: Branch) -> float:
            """The time to convert a value from how it is kept, once for all who take it so."""
            if not value.memory and (value, wanted, branch) in converted:
                return 0.0
            converted.add((value, wanted, branch))
            return cost.convert(cost.shape(value), cost.item_bytes(value), problem.sharding(value, choice), wanted)

        for function in problem.graph.functions.values():
            turns = cost.turns(function)
            for node in function.nodes:
                strategy = problem.strategy(node, choice)
                alike = (node.call_class, id(strategy))
                if alike not in known:
                    known[alike] = cost.operator(node, strategy)
                moved = 0.0
                for value, wanted in zip(node.inputs, strategy.inputs, strict=True):
                    moved += taken(value, wanted, node.branch)
                for value, made in zip(node.outputs, strategy.outputs, strict=True):
                    moved += cost.convert(cost.shape(value), cost.item_bytes(value), made, problem.sharding(value, choice))
                nodes.append((node, turns * (known[alike] + moved)))
                operators, conversions = operators + turns * known[alike], conversions + turns * moved
            for value, wanted, _ in function.at_end:
                if wanted is not None:
                    conversions += taken(value, problem.at_end(value, wanted, choice), ())
        return _Times(nodes, operators, conversions)
