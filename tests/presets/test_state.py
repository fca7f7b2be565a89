"""Results that replace weights are found, and every preset places them alike."""

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, presets, same
from tests.annotate.test_same import PAIRS, Step
from tests.programs import Mlp


@I.ir_module
class Momentum:
    """Momentum and weight decay, with a weight that is not trained and a counter."""

    @R.function
    def main(
        x: R.Tensor((4, 4), "float32"),
        frozen: R.Tensor((4, 4), "float32"),
        w: R.Tensor((4, 4), "float32"),
        m: R.Tensor((4, 4), "float32"),
        steps: R.Tensor((), "int64"),
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            g = R.add(R.matmul(x, frozen), R.multiply(w, R.const(0.01)))
            m_new = R.add(R.multiply(m, R.const(0.9)), g)
            w_new = R.subtract(w, R.multiply(m_new, R.const(0.1)))
            count = R.add(steps, R.const(1, "int64"))
            R.output(w_new, m_new, count)
        return (w_new, m_new, count)


def test_the_nearest_weight_is_the_one_that_is_replaced():
    assert presets.state(Momentum) == {"main.return[0]": same("w"), "main.return[1]": same("m"), "main.return[2]": same("steps")}
    assert presets.state(Step) == PAIRS
    assert presets.state(Mlp) == {}


@pytest.mark.parametrize(
    ("specs", "least"),
    [
        (presets.data_parallel(Step), {"w1": P(others=None)}),
        (presets.fsdp(Step), {"w1": P(None, "dp")}),
        (presets.megatron(Step, "dp", ["w1"], ["w2"]), {"w2": P("dp", None)}),
    ],
    ids=["data_parallel", "fsdp", "megatron"],
)
def test_presets_place_new_weights_as_the_old(specs, least):
    assert {**specs, **least, **PAIRS} == specs
    plan = spmd.plan(Step, spmd.Mesh(dp=2), specs)
    assert plan.outputs["main[1]"] == plan.params["w1"]


def test_where_a_weight_is_not_replaced_presets_leave_results_alone():
    specs = presets.fsdp(Momentum)
    assert specs["main.return[0]"] == P("dp", None)
    assert not [spec for spec in specs.values() if not isinstance(spec, P)]
    merged = specs | presets.state(Momentum)
    assert merged["main.return[0]"] == same("w")
    spmd.testing.assert_equivalent(Momentum, spmd.Mesh(dp=2), merged)
    assert isinstance(Momentum, tvm.IRModule)
