"""Results that are placed as what they replace."""

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, ShardingError, same
from tests.programs import BYTES_COUNT

PAIRS = {"main.return[1]": same("w1"), "main.return[2]": same("w2")}


@I.ir_module
class Step:
    """Two products, and new weights that are made from the old ones."""

    @R.function
    def main(x: R.Tensor((8, 16), "float32"), w1: R.Tensor((16, 32), "float32"), w2: R.Tensor((32, 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            up = R.matmul(x, w1)
            y = R.matmul(up, w2)
            g2 = R.matmul(R.permute_dims(up), y)
            new2 = R.subtract(w2, R.multiply(g2, R.const(0.001)))
            g1 = R.matmul(R.permute_dims(x), R.matmul(y, R.permute_dims(w2)))
            new1 = R.subtract(w1, R.multiply(g1, R.const(0.001)))
            R.output(y, new1, new2)
        return (y, new1, new2)


@I.ir_module
class Unchanged:
    """It gives back a weight, an input, and what is made of a symbolic one."""

    @R.function
    def main(x: R.Tensor((8, 4), "float32"), s: R.Tensor(("n", 4), "float32"), w: R.Tensor((4, 4), "float32")):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            y = R.matmul(x, w)
            t = R.add(s, s)
            R.output(y, t)
        return (w, y, t)


@pytest.mark.parametrize(
    ("mesh", "specs"),
    [
        (Mesh(tp=2), {}),
        (Mesh(tp=2), {"w1": P(None, "tp"), "w2": P("tp", None)}),
        (Mesh(tp=3), {"w1": P("tp", None), "w2": P(None, "tp")}),
        (Mesh(dp=2, tp=2), {"main.x": P("dp", None), "w?": P(("dp", "tp"), None)}),
        (Mesh(dp=2, tp=2), {"main.x": P("dp", None), "w1": P("tp", "?"), "w2": P(others=None)}),
    ],
)
def test_a_result_is_placed_as_the_weight_that_it_replaces(mesh, specs):
    plan = spmd.plan(Step, mesh, {**specs, **PAIRS}, profile=BYTES_COUNT)
    assert [plan.outputs["main[1]"], plan.outputs["main[2]"]] == [plan.params["w1"], plan.params["w2"]]
    spmd.testing.assert_equivalent(Step, mesh, {**specs, **PAIRS}, profile=BYTES_COUNT)


def test_the_pair_is_decided_together_and_costs_no_more_than_any_specs():
    free = spmd.plan(Step, 2, PAIRS, profile=BYTES_COUNT)
    for w1, w2 in ((P("tp", None), P(None, "tp")), (P(None, "tp"), P("tp", None)), (P(None, None), P(None, None))):
        bound = {"w1": w1, "w2": w2, "main.return[1]": w1, "main.return[2]": w2}
        assert free.cost <= spmd.plan(Step, 2, bound, profile=BYTES_COUNT).cost * (1 + 1e-9)
    assert "others: " in free.explain("w1")
    assert free.gap == 0


def test_a_loop_goes_on_with_what_the_workers_hold():
    sharded = spmd.shard(Step, 2, {"w1": P(None, "tp"), "w2": P("tp", None), **PAIRS})
    rng = np.random.default_rng(0)
    x, *weights = (rng.normal(size=shape).astype("float32") for shape in ((8, 16), (16, 32), (32, 16)))
    with spmd.workers(spmd.shard(Step, 1)) as alone, spmd.workers(sharded) as w:
        held = w.load({"w1": weights[0], "w2": weights[1]})
        for _ in range(3):
            want, *weights = alone["main"](x, *weights)
            y, *held = w["main"](x, *held, keep=True)
            np.testing.assert_allclose(y.numpy(), want, rtol=1e-4, atol=1e-4)
        for handle, weight in zip(held, weights, strict=True):
            np.testing.assert_allclose(handle.numpy(), weight, rtol=1e-4, atol=1e-4)


def test_what_is_given_back_as_it_came_and_inputs():
    specs = {"main.return[0]": same("w"), "w": P("tp", None), "main.return[1]": same("main.x"), "main.x": P(None, "tp")}
    plan = spmd.plan(Unchanged, 2, {**specs, "main.s": P(None, "tp"), "main.return[2]": same("main.s")})
    assert [str(plan.outputs[f"main[{i}]"]) for i in range(3)] == ["[tp, -]", "[-, tp]", "[-, tp]"]
    assert not [one for one in plan.collectives if "same('w')" in one.reason]
    spmd.testing.assert_equivalent(Unchanged, 2, specs)


@pytest.mark.parametrize(
    ("specs", "text"),
    [
        ({"main.return[1]": same("w3")}, "same('w3') names no weight and no input. Did you mean 'w2' or 'w1'?"),
        ({"main.return[1]": same("main.up")}, "same('main.up') names no weight and no input"),
        ({"main.return[1]": same("w2")}, "it is 16 x 32, and 'w2' is 32 x 16. Name what the result replaces."),
        ({"w1": same("w2")}, "specs['w1']: 'w1' is no result, and only results can be placed as something else is."),
        (
            {"main.return[1]": same("w1"), "main.return[[]1]": P("tp", None)},
            "main.return[1]: specs['main.return[1]'] asks for same('w1'), and",
        ),
    ],
)
def test_errors_name_both(specs, text):
    with pytest.raises(ShardingError) as error:
        spmd.plan(Step, 2, specs)
    assert text in str(error.value)


def test_a_sharding_that_the_result_cannot_have_is_an_error_of_the_weight():
    with pytest.raises(ShardingError, match=r"specs\['w1'\] on 'w1'"):
        spmd.plan(Step, 2, {"w1": P("dp", None), **PAIRS})
