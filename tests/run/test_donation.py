"""Handles that are given away: where their memory goes, and what is said to who uses them again."""

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, ShardingError, same
from tests.annotate.test_same import Step
from tests.pocl import on_pocl

PAIRS = {"main.return[1]": same("w1", donate=True), "main.return[2]": same("w2", donate=True)}
SPLIT = {"w1": P(None, "tp"), "w2": P("tp", None)}


@I.ir_module
class Several:
    """A function that adds, one that gives back what it takes, and one that takes two."""

    @R.function
    def add(x: R.Tensor((4, 4), "float32"), total: R.Tensor((4, 4), "float32")):
        R.func_attr({"num_input": 1})
        return R.add(total, x)

    @R.function
    def begin():
        with R.dataflow():
            total = R.ones((4, 4), "float32")
            R.output(total)
        return total

    @R.function
    def view(total: R.Tensor((4, 4), "float32")):
        R.func_attr({"num_input": 0})
        with R.dataflow():
            flat = R.reshape(total, (16,))
            R.output(flat)
        return (flat, total)

    @R.function
    def both(x: R.Tensor((4, 4), "float32"), total: R.Tensor((4, 4), "float32"), more: R.Tensor((4, 4), "float32")):
        R.func_attr({"num_input": 1})
        return R.add(R.add(total, x), more)


DONATED = {
    "begin.return": P("tp", None),
    "view.return[0]": P("tp"),
    "view.return[1]": same("total"),
    "add.return": same("total", donate=True),
    "both.return": same("total", donate=True),
}


@pytest.fixture(scope="module")
def several():
    with spmd.workers(spmd.shard(Several, 2, {**DONATED, "total": P("tp", None), "more": P("tp", None)})) as w:
        yield w


@pytest.mark.parametrize(("make", "specs"), [(spmd.workers, {}), (spmd.workers, SPLIT), (on_pocl, SPLIT)], ids=["whole", "split", "GPUs"])
def test_a_loop_holds_one_copy(make, specs):
    rng = np.random.default_rng(0)
    x, *weights = (rng.normal(size=shape).astype("float32") for shape in ((8, 16), (16, 32), (32, 16)))
    with spmd.workers(spmd.shard(Step, 1)) as alone, make(spmd.shard(Step, 2, {**specs, **PAIRS})) as w:
        held = w.load({"w1": weights[0], "w2": weights[1]})
        places = [one.data_ptr() for one in held[0].objects]
        for _ in range(3):
            want, *weights = alone["main"](x, *weights)
            before = held
            y, *held = w["main"](x, *held, keep=True)
            np.testing.assert_allclose(y.numpy(), want, rtol=1e-4, atol=1e-4)
            assert not any(handle.objects for handle in before)
        for handle, weight in zip(held, weights, strict=True):
            np.testing.assert_allclose(handle.numpy(), weight, rtol=1e-4, atol=1e-4)
        assert [one.data_ptr() for one in held[0].objects] == places, "w2 is read after it is made: only w1 is where it was"


def test_an_array_that_is_passed_stays_as_it_is(several):
    x, total = np.ones((4, 4), "float32"), np.full((4, 4), 2, "float32")
    for _ in range(2):
        np.testing.assert_array_equal(several["add"](x, total), np.full((4, 4), 3))
    np.testing.assert_array_equal(total, np.full((4, 4), 2))


def test_who_uses_a_handle_again_is_told(several):
    x = np.ones((4, 4), "float32")
    old = several.load({"total": x}, "add")[0]
    new = several["add"](x, old, keep=True)
    for use in (old.numpy, lambda: several["add"](x, old), lambda: several["view"](old), lambda: several.call_packed("testing.echo", old)):
        with pytest.raises(ShardingError, match=r"donated to add\(\), for its result 'add.return'. Use what that gave"):
            use()
    np.testing.assert_array_equal(new.numpy(), 2 * x)


def test_handles_of_one_memory_go_together(several):
    x = np.ones((4, 4), "float32")
    old = several.load({"total": x}, "add")[0]
    flat, same_one = several["view"](old, keep=True)
    new = several["add"](x, same_one, keep=True)
    for handle in (old, flat):
        with pytest.raises(ShardingError, match=r"donated to add\(\)"):
            handle.numpy()
    np.testing.assert_array_equal(several["add"](x, new), 3 * x)


def test_constants_of_the_program_are_not_written(several):
    x = np.ones((4, 4), "float32")
    for _ in range(2):
        start = several["begin"](keep=True)
        np.testing.assert_array_equal(several["add"](x, several["view"](start, keep=True)[1]), 2 * x)


def test_what_is_donated_is_passed_once(several):
    x = np.ones((4, 4), "float32")
    old = several.load({"total": x}, "add")[0]
    with pytest.raises(ShardingError, match=r"its handle is passed for 'more', too, and 'both.return' is written into its memory"):
        several["both"](x, old, old)
    np.testing.assert_array_equal(several["both"](x, old, x), 3 * x)


def test_what_fails_before_it_runs_gives_nothing_away(several):
    old = several.load({"total": np.ones((4, 4), "float32")}, "add")[0]
    with pytest.raises(ShardingError, match="it takes float32"):
        several["add"](np.ones(3, "float32"), old)
    assert old.numpy().sum() == 16


def test_specs_of_one_result_agree_on_it():
    with pytest.raises(ShardingError, match=r"asks for same\('w1'\), and specs.* asks for same\('w1', donate=True\)"):
        spmd.plan(Step, 2, {"main.return[1]": same("w1"), "main.return[[]1]": same("w1", donate=True)})


def test_a_result_takes_the_memory_of_its_own_function_alone():
    with pytest.raises(ShardingError, match="'more' is no parameter of 'add', which cannot give its memory away"):
        spmd.plan(Several, 2, {"add.return": same("more", donate=True)})


def test_a_plan_goes_through_json_and_lowers_again():
    plan = spmd.Plan.from_json(spmd.plan(Step, 2, {**SPLIT, **PAIRS}).to_json())
    assert [leaf.donated for leaf in plan.functions["main"].params] == ["", "main.return[1]", "main.return[2]"]
    assert spmd.lower(Step, plan)["main"].attrs["spmd.donated"]


def test_presets_take_donated_pairs():
    pairs = spmd.presets.state(Step, donate=True)
    assert pairs == PAIRS
    spmd.testing.assert_equivalent(Step, 2, {**SPLIT, **pairs})
