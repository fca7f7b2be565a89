"""Costs of the user's own: what they are asked, that every number of a plan comes from them, and what they may not say."""

import math
from dataclasses import replace
from functools import partial

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Cost, Mesh, P, ShardingError, Work
from spmd.costs.profile import profile_of
from spmd.rules import registry
from tests.programs import Mlp

COLUMNS = {"w1": P(None, "tp"), "w2": P("tp", None)}


class Counted(Cost):
    """A product takes a second, a collective a quarter of one, all else nothing."""

    def compute_time(self, work):
        return 1.0 if work.kind == "full" else 0.0

    def exchange_time(self, kind, axis, held):
        return 0.25


def test_every_number_of_a_plan_comes_from_it():
    plan = spmd.plan(Mlp, 2, COLUMNS, cost=Counted)
    assert plan.predicted == {"main": 2.25}
    assert [c.seconds for c in plan.choices["main"]] == [1.0, 0.0, 1.0]
    assert [(c.kind, c.seconds) for c in plan.collectives] == [("all_reduce", 0.25)]
    (timed,), (moved,) = plan.report().timed, plan.report().moved
    assert (timed.seconds, timed.collectives, moved.seconds) == (2.25, 0.25, 0.25)
    assert plan.explain().startswith("Mesh(tp=2), profile generic (Counted), ")


def test_so_do_its_alternatives():
    plan = spmd.plan(Mlp, 2, {"w1": P(None, "tp")}, cost=Counted)
    found = {str(a.sharding): a.seconds for a in plan.alternatives("w2")}
    assert (str(plan.params["w2"]), found) == ("[-, -]", {"[tp, -]": 0.0, "[-, tp]": 0.25})
    apart = spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "w2": P(None, "tp")}, cost=Counted)
    assert apart.predicted["main"] - plan.predicted["main"] == found["[-, tp]"]


def test_it_decides():
    class Dear(Cost):
        def exchange_time(self, kind, axis, held):
            return super().exchange_time(kind, axis, held) + 1.0

    split = spmd.plan(Mlp, 2, profile=(fast := spmd.Profile("fast", 1e9, 1e9, 1e12, 1e-12)))
    assert split.collectives
    assert not spmd.plan(Mlp, 2, profile=fast, cost=Dear).collectives


def test_what_a_cost_is_told_of_an_operator():
    told: list[Work] = []

    class Told(Cost):
        def compute_time(self, work):
            told.append(work)
            return super().compute_time(work)

    spmd.plan(Mlp, 2, COLUMNS, cost=Told)
    by_columns = Work("full", 2 * 4 * 16 * 16, 4 * (4 * 16 + 16 * 16), "float32", ((4, 16), (16, 16), (4, 16)))
    assert by_columns in told  # it takes the activation along, which writes the result
    assert Work("pointwise", 4 * 16, 4 * 4 * 16, "float32", ((4, 16), (4, 16)), launches=0) in told


@I.ir_module
class Packed:
    """Two packed functions of the same shapes."""

    @R.function
    def main(x: R.Tensor((8, 8), "float32")):
        with R.dataflow():
            y = R.call_dps_packed("test.light", (x,), out_ty=R.Tensor((8, 8), "float32"))
            z = R.call_dps_packed("test.heavy", (y,), out_ty=R.Tensor((8, 8), "float32"))
            R.output(z)
        return z


def test_a_rule_names_a_kind_of_its_own(monkeypatch):
    """Operators of the same shapes and strategies share their times; the kind tells them apart."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    for name in ("light", "heavy"):
        spmd.rule(f"test.{name}")(lambda op, name=name: op.bind("... -> ...", work=name))

    class ByKind(Cost):
        def compute_time(self, work):
            return {"light": 1.0, "heavy": 10.0}[work.kind] * work.shapes[0][0]

    whole = spmd.plan(Packed, 2, {"main.x": P(None, None)}, cost=ByKind)
    assert [c.seconds for c in whole.choices["main"]] == [4.0, 40.0]
    assert whole.predicted["main"] == pytest.approx(44.0, abs=1e-3)
    default = spmd.plan(Packed, 1)
    assert len({c.seconds for c in default.choices["main"]}) == 1 and default.predicted["main"] > 0


def test_a_cost_with_arguments_of_its_own():
    class Scaled(Cost):
        def __init__(self, *args, by):
            super().__init__(*args)
            self.by = by

        def compute_time(self, work):
            return self.by * super().compute_time(work)

    one, three = (spmd.plan(Mlp, 1, cost=partial(Scaled, by=n)).predicted["main"] for n in (1, 3))
    assert three == pytest.approx(3 * one) and one > 0


def test_a_cost_that_changes_nothing_plans_the_same():
    class Same(Cost):
        pass

    options = {"profile": "cpu", "sizes": {"n": 3}, "memory": 1e6}
    here, there = spmd.plan(Mlp, Mesh(dp=2, tp=2), **options), spmd.plan(Mlp, Mesh(dp=2, tp=2), **options, cost=Same)
    assert there.profile == "cpu (Same)" and replace(there, profile="cpu") == here


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize(("method", "what"), [("compute_time", "relax.matmul"), ("exchange_time", "[-, tp] -> [-, -]")])
def test_seconds_are_finite_and_not_negative(method, what, seconds):
    wrong = type("Wrong", (Cost,), {method: lambda *_: seconds})
    with pytest.raises(ShardingError) as caught:
        spmd.plan(Mlp, 2, COLUMNS, cost=wrong)
    assert str(caught.value).startswith(f"cost Wrong: {what} takes {seconds} seconds. compute_time and exchange_time give seconds, ")


def test_a_cost_is_a_class():
    made = Cost(Mesh(tp=2), profile_of("generic"))
    with pytest.raises(ShardingError, match=r"cost: <.*Cost object .* is made already, and for one mesh\. Pass the class, cost=MyCost"):
        spmd.plan(Mlp, 2, cost=made)
