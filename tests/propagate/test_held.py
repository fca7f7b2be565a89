"""What a function holds where some of its values are made again."""

from __future__ import annotations

import pytest

from spmd import Mesh, P, Sharding
from spmd.annotate.specs import annotate
from spmd.costs.cost import Cost
from spmd.program.build import build_graph
from spmd.propagate.decide import decide
from spmd.propagate.decided import decided_by
from spmd.propagate.held import Holding
from spmd.propagate.memory import Usage
from spmd.realize.prices import CostPrices
from spmd.realize.write import realize
from tests.propagate.test_remat import LAYERS, SLOW, STEP

NAME = "loss_adjoint"
DATA = {f"{NAME}.x": P("dp", None)}
FULLY = {**DATA, **{f"w{i}": P("dp", None) for i in range(LAYERS)}}
"""Weights that are gathered before they are used: conversions hold something, too."""


def holding(workers, specs):
    """The function under its fastest plan, and the bytes that the time line says."""
    mesh = Mesh(dp=workers)
    cost = Cost(mesh, SLOW)
    decision = decide(annotate(build_graph(STEP), mesh, specs), cost)
    problem, choice = decision.problem, decision.solution.choice
    usage, function = Usage(problem, choice), problem.graph.functions[NAME]
    return Holding(usage, function, realize(function, decided_by(problem, choice), CostPrices(cost))), usage.timelines[NAME].peak


@pytest.mark.parametrize("specs", [DATA, FULLY], ids=["data", "fully"])
def test_with_nothing_made_again_it_is_what_the_time_line_says(specs: dict[str, Sharding]) -> None:
    found, peak = holding(2, specs)
    assert found.held({}).bytes == peak and not found.held({}).seconds
