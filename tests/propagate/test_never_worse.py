"""What can only help never makes a plan cost more: two axes in place of one, over links that are equal."""

from hypothesis import given, settings
from hypothesis import strategies as st

from spmd import Mesh
from spmd.annotate import annotate
from spmd.costs.cost import Cost
from spmd.ir.inline import inlined
from spmd.ir.lift import lifted
from spmd.program.build import build_graph
from spmd.propagate.decide import decide
from spmd.testing.programs import SIZES, programs
from tests.propagate.test_optimum import SLOW_WORKERS


def cost(module, mesh):
    """Of the plan of a module under the profile of slow workers."""
    graph = build_graph(lifted(inlined(module)))
    annotate(graph, mesh, None)
    return decide(graph, Cost(mesh, SLOW_WORKERS, SIZES)).solution.cost


@settings(max_examples=40)
@given(st.data())
def test_a_refined_mesh(data):
    module = data.draw(programs(functions=2, operators=4))
    assert cost(module, Mesh(dp=2, tp=2)) <= cost(module, Mesh(tp=4)) * (1 + 1e-9)
