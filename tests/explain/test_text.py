"""A value in words."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import P, Plan, Sharding, ShardingError
from spmd.plan.decisions import Alternative
from tests.programs import Mlp, Two

CPU = "cpu"


@I.ir_module
class Wide:
    """Large enough that a split saves time on most hardware."""

    @R.function
    def main(x: R.Tensor(("n", 1024), "float32"), up: R.Tensor((1024, 4096), "float32"), down: R.Tensor((4096, 1024), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.matmul(x, up)
            b = R.nn.relu(a)
            c = R.matmul(b, down)
            R.output(c)
        return c


@pytest.fixture(scope="module")
def wide():
    return spmd.plan(Wide, 2, sizes={"n": 8})


def lines(plan, name):
    return plan.explain(name).splitlines()


def test_where_a_weight_lives_and_what_the_next_best_would_cost(wide):
    first, held, chosen, others, taken = lines(wide, "up")
    assert first == "up: [-, tp]"
    assert held == "  float32 1024 x 4096, each of 2 workers holds 1024 x 2048: 8,388,608 bytes of 16,777,216"
    assert chosen.startswith("  chosen for its time: the next best, [")
    assert " us more (operators " in chosen and "; most around relax.matmul " in chosen
    assert others.startswith("  others: [") and others.endswith(" us")
    assert taken == "  taken by relax.matmul 'a' of 'main' as [-, tp]"


def test_a_value_names_who_makes_and_takes_it(wide):
    found = lines(wide, "main.b")
    assert found[1] == "  float32 n x 4096, each of 2 workers holds n x 2048: 65,536 bytes of 131,072"
    assert found[-2:] == ["  made by relax.nn.relu 'b' of 'main' as [-, tp]", "  taken by relax.matmul 'c' of 'main' as [-, tp]"]


def test_a_collective_says_who_disagrees_where_and_what_it_costs(wide):
    (c,) = wide.collectives
    assert (c.kind, c.value, c.op, c.at, str(c.source), str(c.target)) == ("all_reduce", "c", "relax.matmul", 2, "[-, -] sum@tp", "[-, -]")
    file, _, line = c.span.rpartition(":")
    assert Path(file).name == "test_text.py" and Path(file).read_text().splitlines()[int(line) - 1].strip() == "c = R.matmul(b, down)"
    assert c.seconds > 5e-6
    text = lines(wide, "main.c")[-1]
    assert text.startswith("  all_reduce over tp, 32768 bytes, in main: relax.matmul makes 'c' as [-, -] sum@tp, it is kept as [-, -] (")
    assert text.endswith(f" us predicted, {c.span})")


def test_a_constraint_says_what_it_costs():
    plan = spmd.plan(Wide, 2, {"up": P("tp", None)}, sizes={"n": 8})
    found = lines(plan, "up")
    assert found[2] == "  because specs['up'] asks for P('tp', None)"
    assert found[3].startswith("  without that it would be [-, tp], ") and " us less (operators " in found[3]
    because, without = lines(plan, "main.x")[2:4]
    assert because == "  because inputs are whole unless specs say otherwise"
    assert without.startswith("  without that it would be [-, tp], ") and " us less (operators " in without
    assert plan == spmd.plan(Wide, 2, {"up": P("tp", None)}, sizes={"n": 8}), "asking changes nothing"


def test_a_result(wide):
    first, held, because, without = lines(wide, "main")
    assert (first, held) == ("main: [-, -]", "  float32 n x 1024, whole on 2 workers: 32,768 bytes of 32,768")
    assert because == "  because results are whole unless specs say otherwise"
    assert without.startswith("  without that it would be ") and "less (operators" in without


@pytest.mark.parametrize(("mod", "profile"), [(Wide, "generic"), (Wide, CPU), (Mlp, "generic"), (Mlp, CPU), (Two, CPU)])
def test_what_another_choice_costs_is_what_planning_with_it_costs(mod, profile):
    plan = spmd.plan(mod, 2, profile=profile)
    asked = 0
    for name in [*plan.params, *(v for v in plan.values if v not in plan.inputs)]:
        for other in plan.alternatives(name):
            assert not other.is_bound and other.fits and other.memory > 0
            if not other.sharding.partial:
                spec = P(*(d and d.axes for d in other.sharding.dims), others=None)
                then = spmd.plan(mod, 2, {name: spec}, profile=profile)
                more = then.searched._solution.cost - plan.searched._solution.cost
                assert other.seconds == pytest.approx(more, rel=1e-6, abs=1e-12)
                assert other.seconds == pytest.approx(other.operators + other.conversions, abs=1e-15)
                asked += 1
    assert asked >= 4


def test_alternatives_are_sorted_and_none_is_better(wide):
    for name in (*wide.params, *wide.values):
        costs = [a.seconds for a in wide.alternatives(name)]
        assert costs == sorted(costs) and all(s >= -1e-12 for s in costs)
        assert wide.params.get(name, wide.values.get(name)) not in [a.sharding for a in wide.alternatives(name)]


def test_what_does_not_fit_into_memory_says_so():
    plan = spmd.plan(Wide, 2, profile=CPU, memory=20e6, sizes={"n": 8})
    assert any(line.startswith("  [-, -] takes too much memory: its fastest plan needs ") for line in lines(plan, "up"))


def test_a_plan_that_was_loaded_says_where_more_is_known(wide, tmp_path):
    wide.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == wide
    assert "  what else it could have been is known only where the plan was made" in lines(loaded, "up")
    for plan in (loaded, copy.deepcopy(wide), pickle.loads(pickle.dumps(wide)), replace(wide)):
        assert plan == wide and plan.searched is None
    with pytest.raises(
        ShardingError, match=r"Plan\.alternatives\('up'\): it is known only where the plan was made\. Plan the module again\."
    ):
        loaded.alternatives("up")


def test_an_unknown_name(wide):
    for ask in (wide.explain, wide.alternatives):
        with pytest.raises(ShardingError, match=r"there is no value 'main\.bb'\. Did you mean 'main\.b'"):
            ask("main.bb")


def test_bounds_and_the_impossible_are_said(wide):
    class Known:
        def __init__(self, *found):
            self.found = list(found)

        def of(self, name):
            return self.found

        def lifted(self, name):
            return None

    sharding = wide.params["up"]
    plan = copy.copy(wide)
    plan.searched = Known(*(Alternative(sharding, n * 1e-6, is_bound=n > 1) for n in range(1, 10)))
    assert lines(plan, "up")[2].endswith("(operators 0.0 us, conversions 0.0 us)".replace("0.0", "+0.0"))
    assert lines(plan, "up")[3].startswith("  others: [-, tp] at least +2.0 us, ") and lines(plan, "up")[3].endswith(", and 2 more")
    plan.searched = Known(Alternative(sharding, float("inf")))
    assert lines(plan, "up")[2] == "  nothing else obeys all that is asked: not [-, tp]"
    plan.searched = Known(Alternative(sharding, 0.0))
    assert lines(plan, "up")[2] == "  [-, tp] would cost the same"
    plan.searched = Known(Alternative(sharding, 1e-6, gap=0.015))
    assert ", found within 1.50% of the best plan)" in lines(plan, "up")[2]
    plan.searched = Known()
    assert lines(plan, "up")[2] == "  no operator offers another way to hold it"


def test_a_constraint_that_changes_nothing():
    plan = spmd.plan(Wide, 2, {"up": P(None, "tp")}, sizes={"n": 8})
    assert lines(plan, "up")[3] == "  without that it would be the same"


def test_a_partial_value_holds_parts_of_a_sum(wide):
    plan = copy.copy(wide)
    plan.values = {**wide.values, "main.c": Sharding((None, None), (("tp", "sum"),))}
    assert (
        lines(plan, "main.c")[1]
        == "  float32 n x 1024, each of 2 workers holds n x 1024, a part of the sum over tp: 32,768 bytes of 32,768"
    )


@I.ir_module
class Odd:
    """Inputs that are free, a constant, a tuple, a function that gives what it is given, and one that gives no tensor."""

    @R.function
    def main(pair: R.Tuple(R.Tensor((4, 6), "float32"), R.Tensor((6,), "float32"))):
        a = pair[0]
        b = pair[1]
        c = R.add(a, b)
        d = R.multiply(c, R.const(2.0, "float32"))
        return (d, b)

    @R.function
    def same(x: R.Tensor((4,), "float32")):
        return x

    @R.function
    def size(x: R.Tensor(("n",), "float32")) -> R.Shape(["n"]):
        n = T.int64()
        return R.shape([n])


def test_every_name_of_a_plan_can_be_explained():
    plan = spmd.plan(Odd, 2)
    for name in {**plan.values, **plan.params, **plan.inputs, **plan.outputs}:
        assert plan.explain(name).startswith(f"{name}: [")
    assert "because constants of less than `lift` bytes stay in the program, and are whole" in plan.explain("main.constant")
    assert plan.explain("same").splitlines()[0] == "same: [-]"
    assert str(plan.report()) and str(plan.diff(spmd.plan(Odd, 3))).startswith("mesh: Mesh(tp=2) -> Mesh(tp=3)")


def test_in_a_large_problem_only_the_best_is_solved_again(wide, monkeypatch):
    every = wide.alternatives("up")
    monkeypatch.setattr("spmd.propagate.alternatives.SMALL", 0)
    best, *rest = wide.alternatives("up")
    assert best == every[0] and rest and all(a.is_bound for a in rest)
    exact = {a.sharding: a.seconds for a in every}
    assert all(a.seconds <= exact[a.sharding] * (1 + 1e-9) for a in rest)
