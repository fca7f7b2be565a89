"""What a function holds where some of its values are made again."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

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


@I.ir_module
class Early:
    """A result that is made early is there while the other one is made."""

    @R.function
    def main(x: R.Tensor((8, 64), "float32")):
        with R.dataflow():
            early = R.permute_dims(x)
            square = R.matmul(early, x)
            late = R.matmul(square, square)
            R.output(early, late)
        return early, late


def fastest(specs, mod=STEP, workers=2):
    """The fastest plan, and what it holds."""
    mesh = Mesh(dp=workers)
    decision = decide(annotate(build_graph(mod), mesh, specs), Cost(mesh, SLOW))
    return decision, Usage(decision.problem, decision.solution.choice)


def holding(decision, usage, name):
    """What one function holds under a plan."""
    problem, function = decision.problem, decision.problem.graph.functions[name]
    return Holding(usage, function, realize(function, decided_by(problem, decision.solution.choice), CostPrices(problem.cost)))


@pytest.mark.parametrize("specs", [DATA, FULLY], ids=["data", "fully"])
def test_with_nothing_made_again_it_is_what_the_time_line_says(specs):
    decision, usage = fastest(specs)
    found = holding(decision, usage, NAME).held({})
    assert found.bytes == usage.timelines[NAME].peak and not found.seconds


def test_results_are_held_to_the_end():
    """Where nothing is converted, what is simulated is what the time line says."""
    decision, usage = fastest({}, Early, workers=1)
    assert holding(decision, usage, "main")._simulated({}).bytes == usage.timelines["main"].peak == 4 * (2 * 8 * 64 + 2 * 64 * 64)


@pytest.mark.parametrize("specs", [DATA, FULLY], ids=["data", "fully"])
def test_what_holds_exactly_the_budget_fits(specs):
    decision, usage = fastest(specs)
    names = {node.outputs[0].path for node in decision.problem.graph.functions[NAME].nodes if node.outputs}
    options = _Options(decision, usage, names, usage.peak * 0.8)
    (one,) = options.holdings

    def held(budget):
        return one.held(options._fitting(one, budget))

    found = held(usage.peak * 0.8)
    assert found.bytes < usage.peak * 0.8 and held(found.bytes) == found
