"""The plan of random programs costs what a mixed-integer program over the same tables says, on meshes of one, two and three axes."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spmd import Mesh
from spmd.annotate import annotate
from spmd.costs.cost import INFEASIBLE, Cost
from spmd.costs.profile import Profile
from spmd.ir.inline import inlined
from spmd.ir.lift import lifted
from spmd.program.build import build_graph
from spmd.propagate.decide import decide
from spmd.testing.programs import SIZES, programs, specs
from tests.propagate.test_solver import integer_program

LARGEST = 30_000
"""Entries of all tables of a program: the integer program has a variable for each."""
SLOW_WORKERS = Profile("slow workers", flops=1e6, memory_bandwidth=1e6, link_bandwidth=1e7, link_latency=1e-6)
"""So slow that splitting pays, with links that are not free."""


def scaled(groups):
    """The tables in units of their largest finite cost; what cannot be done costs a thousand of them."""
    factors = [factor for group in groups for factor in group]
    unit = max((float(t[t < INFEASIBLE].max(initial=0.0)) for _, t in factors), default=0.0) or 1.0
    return [(scope, np.where(table >= INFEASIBLE, 1e3, table / unit)) for scope, table in factors if scope], unit


@pytest.mark.timeout(1800)  # HiGHS takes minutes for the largest ones where others are at work
@pytest.mark.parametrize("mesh", [Mesh(tp=2), Mesh(tp=3), Mesh(dp=2, tp=2), Mesh(dp=2, tp=2, cp=2)], ids=str)
@settings(max_examples=max(40, settings.default.max_examples // 15))  # with the profile `fuzz`, 133 on each of four meshes
@given(st.data())
def test_random_programs_are_planned_at_the_optimum(mesh, data):
    module = data.draw(programs(functions=2, operators=4))
    cost = Cost(mesh, SLOW_WORKERS, SIZES)
    graph = build_graph(lifted(inlined(module)))
    annotate(graph, mesh, data.draw(specs(module, mesh)))
    decision = decide(graph, cost)
    problem, solution = decision.problem, decision.solution
    assert solution.gap == 0.0 and solution.bound <= solution.cost
    factors, unit = scaled(problem.groups.values())
    assume(sum(table.size for _, table in factors) <= LARGEST)
    constant = sum(float(table) for group in problem.groups.values() for scope, table in group if not scope)
    used = {v for scope, _ in factors for v in scope}
    optimum = integer_program({v: problem.sizes[v] for v in used}, factors) if factors else 0.0
    assert solution.cost == pytest.approx(optimum * unit + constant, rel=1e-6, abs=1e-12)
