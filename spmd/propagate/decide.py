"""The choice of a placement: candidates over all axes of a mesh, their times, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spmd.costs.cost import Cost
from spmd.program.graph import Graph

from .axes_together import find_candidates
from .problem import Problem
from .search import Search, Solution

MOST_NAMED = 8
"""Values and operators of which candidates were left out that are notes of their own."""


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
    return Decision(problem, solution, _notes(candidates.cut_short))


def _notes(cut_short: Sequence[str]) -> list[str]:
    """What a reader must know where candidates were left out: by name, and of many by number."""
    notes = [f"{name}: only the first candidates were considered" for name in cut_short[:MOST_NAMED]]
    rest = cut_short[MOST_NAMED:]
    if rest:
        notes.append(f"of {len(rest)} others, from {rest[0]} to {rest[-1]}, only the first candidates were considered, too")
    return notes
