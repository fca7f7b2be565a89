"""The choice of a placement: candidates over all axes of a mesh, their times, and the best of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from spmd.costs.cost import Cost
from spmd.program.graph import Graph

from .axes_together import find_candidates
from .problem import Problem
from .search import Search, Solution


@dataclass(frozen=True)
class Decision:
    """A solution of a problem, and what is to be said of how it was found."""

    problem: Problem
    solution: Solution
    notes: list[str] = field(default_factory=list[str])


def decide(graph: Graph, cost: Cost) -> Decision:
    """The placement of least predicted time. Raises `ShardingError` when the constraints contradict each other."""
    candidates = find_candidates(graph, cost.mesh)
    problem = Problem(graph, candidates, cost)
    solution = Search(problem.sizes, list(problem.groups.values())).run()
    problem.check_feasible(solution.choice, solution.cost)
    return Decision(problem, solution, [f"{name}: only the first candidates were considered" for name in candidates.cut_short])
