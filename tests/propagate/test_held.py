"""What a function holds where some of its values are made again."""

import pytest

from spmd import Mesh, P
from spmd.annotate.specs import annotate
from spmd.costs.cost import Cost
from spmd.program.build import build_graph
from spmd.propagate.decide import decide
from spmd.propagate.decided import decided_by
from spmd.propagate.held import Holding
from spmd.propagate.memory import Usage
from spmd.propagate.remat import _Options
from spmd.realize.prices import CostPrices
from spmd.realize.write import realize
from tests.propagate.test_remat import LAYERS, SLOW, STEP

NAME = "loss_adjoint"
DATA = {f"{NAME}.x": P("dp", None)}
FULLY = {**DATA, **{f"w{i}": P("dp", None) for i in range(LAYERS)}}
"""Weights that are gathered before they are used: conversions hold something, too."""


def fastest(specs):
    """The fastest plan on two workers, and what it holds."""
    mesh = Mesh(dp=2)
    decision = decide(annotate(build_graph(STEP), mesh, specs), Cost(mesh, SLOW))
    return decision, Usage(decision.problem, decision.solution.choice)


@pytest.mark.parametrize("specs", [DATA, FULLY], ids=["data", "fully"])
def test_with_nothing_made_again_it_is_what_the_time_line_says(specs):
    decision, usage = fastest(specs)
    problem, function = decision.problem, decision.problem.graph.functions[NAME]
    steps = realize(function, decided_by(problem, decision.solution.choice), CostPrices(problem.cost))
    found = Holding(usage, function, steps).held({})
    assert found.bytes == usage.timelines[NAME].peak and not found.seconds


@pytest.mark.parametrize("specs", [DATA, FULLY], ids=["data", "fully"])
def test_what_holds_exactly_the_budget_fits(specs):
    decision, usage = fastest(specs)
    names = {node.outputs[0].path for node in decision.problem.graph.functions[NAME].nodes if node.outputs}
    options = _Options(decision, usage, names, usage.peak * 0.8)
    (holding,) = options.holdings

    def held(budget):
        return holding.held(options._fitting(holding, budget))

    found = held(usage.peak * 0.8)
    assert found.bytes < usage.peak * 0.8 and held(found.bytes) == found
