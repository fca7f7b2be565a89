"""Plans that are lowered later: those of a module fit it, as they are and from a file; what has changed since is said, not lowered."""

from dataclasses import replace

import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, Plan, Sharding, ShardingError
from spmd.costs.planning_sizes import symbols_of
from spmd.placement.sharding import Segment, Split
from spmd.plan.steps import Bundle, Mask, Reorder, Return, Transfer
from spmd.rules import registry
from spmd.testing import FREE_LINKS
from spmd.testing.programs import DIVISIBLE, SIZES, meshes, programs, specs
from tests.explain.test_listing import Uneven
from tests.ir.test_lift import Mlp
from tests.lower.test_bundles import SPLIT, Products
from tests.models.mlc_llama import TINY, mlc_llama
from tests.programs import Two
from tests.test_programs import LIFT
from tests.test_symbolic_programs import HEADS, Attention


@I.ir_module
class Terms:
    """Partial sums go through the sum of two products."""

    @R.function
    def main(x: R.Tensor((4, 16), "float32"), v: R.Tensor((16, 8), "float32"), w: R.Tensor((16, 8), "float32")):
        with R.dataflow():
            y = R.matmul(x, v)
            z = R.matmul(x, w)
            both = R.add(y, z)
            R.output(both)
        return both


@I.ir_module
class Square:
    """A product, and its rows sorted."""

    @R.function
    def main(x: R.Tensor((8, 8), "float32"), w: R.Tensor((8, 8), "float32")):
        with R.dataflow():
            y = R.matmul(x, w)
            z = R.sort(y, axis=1)
            R.output(z)
        return z


@I.ir_module
class Returned:
    """An argument is a result, too: no operator takes it or makes it."""

    @R.function
    def main(x: R.Tensor((8,), "float32"), y: R.Tensor((8,), "float32")):
        with R.dataflow():
            z = R.tanh(y)
            R.output(z)
        return (x, z)


ROWS = {"main.x": P("tp", None), "main.w": P(None, None), "main.return": P("tp", None)}
PROGRAMS = {
    "two functions": (Two, Mesh(tp=3), {"w": P("tp", None)}, {}),
    "sums let through": (Terms, Mesh(dp=2, tp=2), {"main.v": P(("dp", "tp"), None), "main.w": P(("dp", "tp"), None)}, {}),
    "symbolic sizes": (Two, Mesh(tp=2), {"second.x": P("tp", None), "second.return[0]": P("tp", None)}, {"divisible": {"n": 2}}),
    "a bundle with what is returned as it came": (Returned, Mesh(tp=2), {"main.x": P("tp"), "main.y": P("tp")}, {}),
    "patterns of a symbolic size": (Attention, Mesh(tp=2), HEADS, {"profile": FREE_LINKS}),
    "constants that are weights": (Mlp, Mesh(tp=2), {"main.x": P(None, "tp")}, {"profile": FREE_LINKS}),
    "a cache and kernels": (mlc_llama(TINY, "q4f16_1", layers=1)[0], Mesh(tp=2), None, {"profile": FREE_LINKS}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_plan_fits_its_module_whether_saved_or_not(name):
    mod, mesh, specs, options = PROGRAMS[name]
    sharded = spmd.shard(mod, mesh, specs, **options)
    assert any(c.splits or c.partial_through for choices in sharded.plan.choices.values() for c in choices)
    for plan in (sharded.plan, Plan.from_json(sharded.plan.to_json())):
        tvm.ir.assert_structural_equal(spmd.lower(mod, plan), sharded.mod)


def test_sums_let_through_are_among_them():
    mod, mesh, specs, _ = PROGRAMS["sums let through"]
    assert spmd.plan(mod, mesh, specs).choices["main"][-1].partial_through == (0, 1)


@given(st.data())
def test_plans_of_random_programs_fit(data):
    mod, mesh = data.draw(programs(functions=2)), data.draw(meshes())
    symbols = symbols_of(mod)
    sizes, divisible = ({n: told[n] for n in symbols if n in told} for told in (SIZES, DIVISIBLE))
    asked = data.draw(specs(mod, mesh, DIVISIBLE, LIFT))
    sharded = spmd.shard(mod, mesh, asked, profile=FREE_LINKS, sizes=sizes, divisible=divisible, lift=LIFT)
    for plan in (sharded.plan, Plan.from_json(sharded.plan.to_json())):
        tvm.ir.assert_structural_equal(spmd.lower(mod, plan), sharded.mod)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("axis=1", "axis=0", r"plan for 'main': relax\.sort 'z': its rule does not allow \[tp, -\] -> \[tp, -\]\. Plan this module"),
        ("R.matmul(x, w", "R.matmul(w, x", r"it has relax\.matmul 'y' of main\.x, main\.w where the module has .* of main\.w, main\.x\."),
        ("R.sort(y, axis=1, descending=False)", "R.nn.relu(y)", r"relax\.sort 'z' of main\.y where the module has relax\.nn\.relu 'z' of"),
        ("R.sort(y, axis=1, descending=False)", 'R.ones((8, 8), "float32")', r"where the module has relax\.ones 'z' of nothing\. Plan"),
        ("float32", "float64", r"plan for 'main': it has 'x' float32\[8, 8\] where the module has 'x' float64\[8, 8\]"),
        ("(z)\n        return z", "(y)\n        return y", r"it has 'z' float32\[8, 8\] where the module has 'y' float32\[8, 8\]"),
        ("with R.data", 'R.func_attr({"num_input": 1})\n        with R.data', r"it has num_input None where the module has 1\."),
    ],
    ids=["attribute", "operands", "operator", "no operands", "arguments", "result", "weights"],
)
def test_a_module_that_has_changed_is_refused(before, after, said):
    text = Square.script()
    assert before in text
    changed = tvm.script.from_source(text.replace(before, after))
    with pytest.raises(ShardingError, match=said):
        spmd.lower(changed, spmd.plan(Square, 2, ROWS))


def test_what_no_plan_decides_on_may_change():
    plan = spmd.plan(Square, 2, ROWS)
    changed = Square.with_attr("made_by", "me")
    assert spmd.lower(changed, plan).attrs["made_by"] == "me"


def altered(plan, choice, **fields):
    """Put other fields into one step of the function ``main``."""
    plan.steps["main"] = [replace(step, **fields) if step == choice else step for step in plan.steps["main"]]


def test_a_choice_that_is_wrong_is_refused():
    plan = spmd.plan(Square, 2, ROWS)
    whole = Sharding.replicated(2)
    altered(plan, plan.choices["main"][1], outputs=(whole,))
    with pytest.raises(ShardingError, match=r"relax\.sort 'z': its rule does not allow \[tp, -\] -> \[-, -\]"):
        spmd.lower(Square, plan)


def test_operators_that_a_plan_lacks():
    plan = spmd.plan(Square, 2, ROWS)
    plan.steps["main"].remove(plan.choices["main"][1])
    with pytest.raises(ShardingError, match=r"plan for 'main': it has 1 operators where the module has 2\. Plan this module"):
        spmd.lower(Square, plan)
    del plan.steps["main"]
    with pytest.raises(ShardingError, match=r"plan for 'main': it has no steps of this function\. Plan this module"):
        spmd.lower(Square, plan)


@pytest.mark.parametrize(
    "split", [Split(("tp",), ()), Split((), (Segment(8),)), Split(("tp",), (Segment(9), Segment(-1)))], ids=["segments", "axes", "size"]
)
def test_splits_that_are_none_are_refused(split):
    plan = spmd.plan(Square, 2, ROWS)
    choice = plan.choices["main"][1]
    altered(plan, choice, splits=tuple((factor, split) for factor, _ in choice.splits))
    with pytest.raises(ShardingError, match=r"relax\.sort 'z': its rule does not allow"):
        spmd.lower(Square, plan)


def test_sums_that_a_rule_does_not_let_through_are_refused():
    plan = spmd.plan(Square, 2, ROWS)
    part = Sharding((None, None), (("tp", "sum"),))
    altered(plan, plan.choices["main"][1], splits=(), inputs=(part,), outputs=(part,), partial_through=(0,))
    with pytest.raises(ShardingError, match=r"relax\.sort 'z': its rule does not allow \[-, -\] sum@tp -> \[-, -\] sum@tp"):
        spmd.lower(Square, plan)


def test_a_rule_that_has_changed_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    plan = spmd.plan(Square, 2, ROWS)
    spmd.rule("relax.matmul")(lambda op: op.bind("m k, k n -> m n", whole="m"))
    with pytest.raises(ShardingError, match=r"relax\.matmul 'y': its rule does not allow \[tp, -\], \[-, -\] -> \[tp, -\]"):
        spmd.lower(Square, plan)


def padded_plan():
    """A plan that masks and reorders: five rows over two workers."""
    specs = {"main.x": P("tp", None), "main.y": P("tp", None), "main.s": P(None, "tp"), "main.return[[]1]": P(None, "tp")}
    return spmd.plan(Uneven, 2, specs, profile=FREE_LINKS)


@pytest.mark.parametrize("kind", [Mask, Transfer, Reorder, Return])
def test_a_step_that_is_missing_is_refused(kind):
    plan = padded_plan()
    plan.steps["main"].remove(next(step for step in plan.steps["main"] if isinstance(step, kind)))
    with pytest.raises(ShardingError, match=r"plan for 'main': .* follows from its decisions\. Plan this module"):
        spmd.lower(Uneven, plan)


def test_steps_in_another_order_are_refused():
    plan = padded_plan()
    steps = plan.steps["main"]
    at = next(i for i, step in enumerate(steps) if isinstance(step, Mask))
    steps[at], steps[at - 1] = steps[at - 1], steps[at]
    with pytest.raises(ShardingError, match=r"plan for 'main': it does Mask\(value='main\.y'.* follows from its decisions"):
        spmd.lower(Uneven, plan)


def test_a_bundle_that_moves_what_nothing_asks_for_is_refused():
    plan = spmd.plan(Products, 2, SPLIT)
    steps = plan.steps["main"]
    at = next(i for i, step in enumerate(steps) if isinstance(step, Bundle))
    steps[at] = Bundle(steps[at].transfers[:1])
    with pytest.raises(ShardingError, match=r"plan for 'main': .* follows from its decisions"):
        spmd.lower(Products, plan)
    steps[at] = Bundle((*steps[at].transfers, *steps[at].transfers))
    with pytest.raises(ShardingError, match=r"plan for 'main': .* follows from its decisions"):
        spmd.lower(Products, plan)


def test_a_bundle_before_what_it_moves_is_made_is_refused():
    plan = spmd.plan(Products, 2, SPLIT)
    steps = plan.steps["main"]
    steps.insert(0, steps.pop(next(i for i, step in enumerate(steps) if isinstance(step, Bundle))))
    with pytest.raises(ShardingError, match=r"main: 'a': a step takes it as \[-, -\] sum@tp, and none before has made it so"):
        spmd.lower(Products, plan)


@I.ir_module
class Merged:
    """What is kept is where the search breaks ties: the other results are for that."""

    @R.function
    def main(p0: R.Tensor((1,), "bool"), p1: R.Tensor((3, 6, 2, 9), "int32"), c2: R.Tensor((1, 1), "bool"), c4: R.Tensor((1,), "int64")):
        R.func_attr({"num_input": 2})
        gv3: R.Tensor((1, 1), "bool") = R.expand_dims(p0, axis=[1])
        gv5: R.Tensor((3, 12, 9), "int32") = R.reshape(p1, R.shape([3, 12, 9]))
        gv7: R.Tensor((3,), "bool") = R.repeat(p0, repeats=3, axis=0)
        return c2, gv3, gv5, c4, gv7


def test_a_way_to_where_nothing_takes_it_is_cut_short_once():
    """On its way to where the value is kept, the result starts from the first move: what comes after it is in no step of the plan."""
    sharded = spmd.shard(Merged, Mesh(dp=2, tp=2), {"main.return[2]": P(None, None, ("tp", "dp"))}, profile=FREE_LINKS, lift=16)
    assert {step.move.kind for step in sharded.plan.steps["main"] if isinstance(step, Transfer | Reorder)} == {"slice", "all_to_all"}
    tvm.ir.assert_structural_equal(spmd.lower(Merged, sharded.plan), sharded.mod)
