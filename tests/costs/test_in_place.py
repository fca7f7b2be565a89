"""Which results are said to need no memory of their own: those that the compiled program writes in place."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import same
from spmd.annotate import annotate
from spmd.costs.in_place import written_in_place
from spmd.placement.mesh import Mesh
from spmd.program.build import build_graph
from tests.schedules.test_donation import EXPECTED, Updates


@pytest.mark.parametrize("name", EXPECTED)
def test_the_graph_tells_what_is_written_in_place(name):
    specs = {f"{name}.return[{i}]": same(f"{name}.{param}", donate=True) for i, param in enumerate("ab")}
    graph = annotate(build_graph(Updates), Mesh(tp=1), specs)
    unchanged = {i for i, param in graph.functions[name].donated.items() if graph.functions[name].returns[i] is param}
    found = written_in_place(graph.functions[name])
    assert tuple(i in found | unchanged for i in range(2)) == EXPECTED[name]


@I.ir_module
class Sum:
    """A sum that is kept."""

    @R.function
    def main(x: R.Tensor((8, 16), "float32"), total: R.Tensor((8, 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.add(total, R.exp(x))
            R.output(y)
        return (y, R.const(1.0))


def test_the_plan_counts_donated_state_once():
    pair = {"main.return[0]": same("total")}
    twice, once = (spmd.plan(Sum, 1, given).memory["main"] for given in (pair, {"main.return[0]": same("total", donate=True)}))
    assert (twice.weights, twice.activations) == (512 + 4, 512 + 512)
    assert (once.weights, once.activations) == (512 + 4, 512)
