"""The choice of a placement: all axes of a mesh together where they are few, else two at a time until nothing gets better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from spmd.costs.cost import Cost
from spmd.program.graph import Graph, Node

from .axes_together import Parts, Product
from .candidates import Candidates
from .problem import Problem
from .search import Search, Solution
from .solver import Factor

MOST_TOGETHER = 2
"""Mesh axes that are planned jointly. Tables grow with every axis to its own power."""
_BETTER = 1 - 1e-9
Pricing = Callable[[Problem], Sequence[Sequence[Factor]]]
"""What to minimize instead of the predicted time: the tables of each function."""


@dataclass(frozen=True)
class Decision:
    """A solution of a problem, and what is to be said of how it was found."""

    problem: Problem
    solution: Solution
    notes: list[str] = field(default_factory=list[str])


def decide(graph: Graph, cost: Cost, pricing: Pricing | None = None) -> Decision:
    """The placement of least predicted time, or of what `pricing` says instead. With more than `MOST_TOGETHER` axes it is a local
    optimum, and says so.

    Raises `ShardingError` when the constraints contradict each other.
    """
    found = Product(graph, cost.mesh)
    if len(found.axes) <= MOST_TOGETHER:
        made = _solve(graph, cost, found.candidates(), pricing)
        made.problem.check_feasible(made.solution.choice, made.solution.cost)
        return made
    nodes = [n for f in graph.functions.values() for n in f.nodes]
    tried: list[Decision] = []
    together = _solve(graph, cost, found.together(), pricing)
    for start in (None, {n: found.parts[id(together.problem.strategy(n, together.solution.choice))] for n in nodes}):
        _descend(graph, cost, found, start, tried, pricing)
    best = min(tried, key=lambda decision: decision.solution.cost)
    best.problem.check_feasible(best.solution.choice, best.solution.cost)
    note = f"the {len(found.axes)} axes of {cost.mesh} were planned {MOST_TOGETHER} at a time, {len(tried)} times, until no two gave less"
    return Decision(best.problem, best.solution, [*best.notes, f"{note}: the plan is the best near it, maybe not of all"])


def _descend(
    graph: Graph, cost: Cost, found: Product, fixed: Mapping[Node, Parts] | None, tried: list[Decision], pricing: Pricing | None
) -> None:
    """Solve for two axes after two, what is best put into `tried`, until nothing is better; `fixed` is what the others do at first."""
    nodes = [n for f in graph.functions.values() for n in f.nodes]
    if fixed is None:
        fixed = dict.fromkeys(nodes, ((),) * len(found.axes))
    best = float("inf")
    waiting = list(combinations(found.axes, MOST_TOGETHER))
    while waiting:
        free = waiting.pop(0)
        made = _solve(graph, cost, found.candidates(free, fixed), pricing)
        tried.append(made)
        if made.solution.cost < best * _BETTER:
            best = made.solution.cost
            fixed = {n: found.parts[id(made.problem.strategy(n, made.solution.choice))] for n in nodes}
            waiting = [axes for axes in combinations(found.axes, MOST_TOGETHER) if axes != free]


def _solve(graph: Graph, cost: Cost, candidates: Candidates, pricing: Pricing | None) -> Decision:
    problem = Problem(graph, candidates, cost)
    solution = Search(problem.sizes, pricing(problem) if pricing else list(problem.groups.values())).run()
    return Decision(problem, solution, [f"{name}: only the first candidates were considered" for name in candidates.cut_short])
