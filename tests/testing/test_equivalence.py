"""The check that checks everything else: it must fail where it should."""

from types import SimpleNamespace

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, ShardingError
from spmd.collectives import Record
from spmd.plan.decisions import Collective
from spmd.rules import registry
from spmd.testing import assert_equivalent, difference, random_arguments, simulate
from spmd.testing.equivalence import traffic_difference
from tests.programs import Mlp, Two


@pytest.fixture
def rules():
    """The table of rules, put back after the test."""
    before = dict(registry._RULES)
    yield registry._RULES
    registry._RULES.clear()
    registry._RULES.update(before)


@I.ir_module
class Cumsum:
    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        with R.dataflow():
            y = R.cumsum(x, axis=1)
            R.output(y)
        return y


@I.ir_module
class Mean:
    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        with R.dataflow():
            y = R.mean(x, axis=[1])
            R.output(y)
        return y


SPLIT = {"main.x": P(None, "tp")}


def test_a_wrong_rule_is_a_wrong_number(rules):
    """The sum so far does not stop at the end of a shard."""
    spmd.rule("relax.cumsum", expression="a b -> a b")
    with pytest.raises(AssertionError, match=r"(?s)result\['main'\]: the largest difference is .*, at most .* was expected\nMesh\(tp=2\)"):
        assert_equivalent(Cumsum, 2, {**SPLIT, "main.y": P(None, "tp")}, profile="generic")


def test_a_rule_that_forgets_to_divide(rules):
    """The sum of the means of two halves is twice the mean."""
    spmd.rule("relax.mean", expression="a b -> a")
    with pytest.raises(AssertionError, match=r"result\['main'\]: the largest difference"):
        assert_equivalent(Mean, 2, SPLIT, profile=spmd.Profile("slow", 1e12, 1e12, 1e3, 1e-9))


def test_a_rule_of_a_wrong_shape_is_found_before_anything_runs(rules):
    spmd.rule("relax.cumsum", expression="a b -> b a")
    with pytest.raises(ShardingError, match=r"factor '[ab]' has the sizes"):
        assert_equivalent(Cumsum, 2, SPLIT)

    @I.ir_module
    class Square:
        @R.function
        def main(x: R.Tensor((6, 6), "float32")):
            with R.dataflow():
                y = R.cumsum(x, axis=1)
                R.output(y)
            return y

    with pytest.raises(
        ShardingError, match=r"main: relax\.cumsum 'y': its local call gives .* and the rule says .* is wrong; replicate it"
    ):
        assert_equivalent(Square, 2, {**SPLIT, "main.y": P("tp", None)}, profile=spmd.Profile("slow", 1e12, 1e12, 1e3, 1e-9))


@pytest.mark.parametrize("mod", [Mlp, Two])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_right_programs_pass(mod, workers):
    sharded = assert_equivalent(mod, workers)
    assert sharded.mesh.size == workers


@I.ir_module
class Special:
    """Infinities, NaN and numbers: log of -1, 0 and 1."""

    @R.function
    def main(x: R.Tensor((4, 6), "int32")):
        with R.dataflow():
            y = R.astype(R.subtract(x, R.const(1, "int32")), "float32")
            z = R.log(y)
            m = R.max(z, axis=[1])
            R.output(z, m)
        return z, m


@pytest.mark.parametrize("specs", [None, {"main.x": P("tp", None)}, {"main.x": P(None, "tp")}])
def test_infinities_and_nan_are_results_too(specs):
    values = simulate(Special)["main"][0]
    assert np.isnan(values).any() and np.isinf(values).any() and np.isfinite(values).any()
    assert_equivalent(Special, 2, specs)


def test_differences():
    one = np.array([1.0, 2.0, 4.0], "float32")
    assert not difference(one, one.copy())
    assert not difference(one, one + np.float32(4e-5))
    assert "the largest difference is" in difference(one, one + np.float32(2e-4))
    assert not difference(one, one + np.float32(2e-4), 1e-3)
    assert difference(one, one.astype("float64"))
    assert difference(one, one[:2])
    assert difference([one, one], [one])
    assert difference({"a": one}, {"b": one})
    assert "b" in difference({"a": one, "b": one}, {"a": one, "b": one + 1})


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_specials_must_stand_in_the_same_places(special):
    a = np.array([1.0, special, 2.0], "float32")
    assert not difference(a, a.copy())
    assert "infinities or NaNs differ" in difference(a, np.array([1.0, 3.0, 2.0], "float32"))
    assert "infinities or NaNs differ" in difference(np.array([1.0, 3.0, 2.0], "float32"), a)
    assert "infinities or NaNs differ" in difference(a, np.array([1.0, -special if np.isinf(special) else np.inf, 2.0], "float32"))
    assert not difference(np.full(3, special, "float32"), np.full(3, special, "float32"))


def test_integers_and_booleans_must_be_equal():
    a = np.array([1000, 2000], "int32")
    assert not difference(a, a.copy())
    assert "1 of 2 elements differ" in difference(a, np.array([1000, 2001], "int32"))
    assert "1 of 2 elements differ" in difference(a, np.array([1000, 2001], "int32"), 1.0), "a tolerance is for floats"
    assert "2 of 2 elements differ" in difference(np.array([True, False]), np.array([False, True]))
    assert difference(3, 4) and not difference(3, 3)


def test_float16_sums_may_differ_by_a_few_roundings():
    a = np.array([1.0, 100.0], "float16")
    assert not difference(a, a + np.float16(0.125))
    assert difference(a, a + np.float16(1))


def test_random_arguments_depend_on_name_and_seed_alone():
    params = spmd.plan(Two, 2, sizes={"n": 5}).functions
    first, second = (random_arguments(params[f].params, f, 0, {"n": 5}) for f in ("first", "second"))
    np.testing.assert_array_equal(first[1], second[1])
    assert second[0].shape == (5, 16)
    assert random_arguments(params["second"].params, "second", 0)[0].shape == (3, 16)
    assert not np.array_equal(first[1], random_arguments(params["first"].params, "first", 1)[1])


def test_a_function_that_takes_an_object_needs_to_be_told_what_to_run():
    from tests.models.mlc_llama import TINY, mlc_llama

    mod, _ = mlc_llama(TINY, layers=1, functions=["decode", "create_paged_kv_cache"])
    with pytest.raises(ShardingError, match=r"its parameter 'paged_kv_cache' is no tensor\. Say what to run with run="):
        random_arguments(spmd.plan(mod, 2).functions["decode"].params, "decode", 0)


def test_what_to_run_may_be_said():
    x = np.ones((4, 6), "float32")
    sharded = assert_equivalent(Mean, 2, SPLIT, run=lambda w: [w["main"](x), w["main"](2 * x)])
    np.testing.assert_allclose(simulate(sharded, lambda w: w["main"](x)), np.ones(4), rtol=1e-6)


def _sent(value, *branch):
    return Collective("all_gather", "tp", 8, "main", value, "why", "float32", "", branch)


def _ran(*values):
    return {"main": tuple(Record("all_gather", "tp", 8, "float32", (2,), value, (0,), call) for call, value in enumerate(values))}


def test_what_ran_is_one_way_through_the_branches():
    yes, no, inner = ("z", True), ("z", False), ("u", True)
    sent = [_sent("a"), _sent("b", yes), _sent("c", yes, inner), _sent("x", no), _sent("x", no), _sent("x", ("v", True))]
    plan = SimpleNamespace(collectives=sent, loops={}, steps={"main": []})
    ways = [("a", "b"), ("a", "b", "c"), ("a", "x", "x"), ("a", "b", "x"), ("a", "b", "c", "x"), ("a", "x", "x", "x")]
    assert [traffic_difference(plan, _ran(*way)) for way in ways] == [""] * len(ways)
    assert traffic_difference(plan, _ran("a", "b", "y")).endswith("[('all_gather', 'tp', 8, 'float32', 'y')] ran unplanned, [] did not run")
    assert traffic_difference(plan, _ran("b")).endswith("[] ran unplanned, [('all_gather', 'tp', 8, 'float32', 'a')] did not run")
    for wrong in (("a",), ("a", "c"), ("a", "x"), ("a", "b", "x", "x")):
        assert traffic_difference(plan, _ran(*wrong)).endswith("ran, which is no way through its branches")


def test_a_row_of_many_ifs_is_checked_too():
    plan = SimpleNamespace(
        collectives=[_sent(f"v{i}{way}", (f"z{i}", way)) for i in range(200) for way in (True, False)], loops={}, steps={"main": []}
    )
    assert traffic_difference(plan, _ran(*(f"v{i}{i % 3 == 0}" for i in range(200)))) == ""
