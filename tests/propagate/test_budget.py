"""Plans within a budget of memory: the fastest that fits, exactly so where programs are small, and what is said where nothing fits."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, Profile, ShardingError
from spmd.costs.cost import INFEASIBLE, Cost
from spmd.ir.inline import inlined
from spmd.ir.lift import lifted
from spmd.program.build import build_graph
from spmd.propagate.budget import decide_within
from spmd.propagate.decide import decide
from spmd.propagate.memory import Usage
from spmd.propagate.memory_error import nothing_fits
from spmd.testing import difference, simulate
from spmd.testing.programs import programs
from tests.models.mlc_llama import TINY, mlc_llama
from tests.programs import Mlp, Two

LAZY = Profile("lazy", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e9, link_latency=1e-4)
"""Collectives cost far more than they save: without a budget everything is whole."""


@I.ir_module
class Fork:
    """Two products of one input, with weights of different sizes, and a sum of what they give."""

    @R.function
    def main(x: R.Tensor((8, 16), "float32"), a: R.Tensor((16, 32), "float32"), b: R.Tensor((16, 64), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            left = R.matmul(x, a)
            right = R.matmul(x, b)
            joined = R.concat((left, right), axis=1)
            y = R.nn.relu(joined)
            R.output(y)
        return y


@I.ir_module
class Product:
    """One product of a free input with a weight."""

    @R.function
    def main(x: R.Tensor((8, 16), "float32"), w: R.Tensor((16, 32), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y


def cost_of(mesh=2, memory=None, profile=LAZY):
    return Cost(Mesh.of(mesh), profile, {}, memory)


def peak(plan):
    return max(m.peak for m in plan.memory.values())


def everything(graph, cost):
    """Seconds and bytes of every choice there is."""
    decision = decide(graph, cost)
    problem = decision.problem
    for values in itertools.product(*(range(n) for n in problem.sizes)):
        choice = dict(enumerate(values))
        seconds = sum(float(t[tuple(choice[v] for v in vs)]) for group in problem.groups.values() for vs, t in group)
        if seconds < INFEASIBLE:
            yield seconds, Usage(problem, choice).peak


@pytest.mark.parametrize("module", [Mlp, Fork], ids=["mlp", "fork"])
@pytest.mark.parametrize("profile", [LAZY, Profile("fair", 1e9, 1e9, 1e9, 1e-7)], ids=["lazy", "fair"])
def test_the_fastest_plan_that_fits_is_found(module, profile):
    """Against every choice, for every budget at which another one is the best."""
    points = sorted(set(everything(build_graph(module), cost_of(profile=profile))))
    budgets = sorted({held for _, held in points})
    for budget in budgets:
        found = decide_within(build_graph(module), cost_of(memory=budget, profile=profile))
        best = min(seconds for seconds, held in points if held <= budget)
        assert found.solution.cost == pytest.approx(best, rel=1e-6)
        assert found.solution.gap == 0
        assert Usage(found.problem, found.solution.choice).peak <= budget
    with pytest.raises(ShardingError, match=r"no plan (fits|was found that fits) into"):
        decide_within(build_graph(module), cost_of(memory=budgets[0] - 1, profile=profile))


@settings(max_examples=30)
@given(programs(2, 3), st.sampled_from([2, 3]), st.floats(0, 1))
def test_the_fastest_plan_of_random_programs_that_fits_is_found(module, workers, share):
    """Every budget at which another plan may be the best is as likely."""
    graph = build_graph(inlined(module))
    assume(math.prod(decide(graph, cost_of(workers)).problem.sizes) <= 1000)
    points = set(everything(graph, cost_of(workers)))
    budgets = sorted({held for _, held in points if held})
    assume(budgets)
    budget = budgets[int(share * (len(budgets) - 1))]
    found = decide_within(graph, cost_of(workers, budget))
    assert found.solution.cost == pytest.approx(min(seconds for seconds, held in points if held <= budget), rel=1e-6)
    assert Usage(found.problem, found.solution.choice).peak <= budget


@settings(max_examples=20)
@given(programs(2, 4), st.sampled_from([2, 3]))
def test_the_plan_that_an_error_names_is_the_leanest(module, workers):
    """Where it is not proven to be, no plan is leaner than what any is said to need."""
    graph = build_graph(lifted(inlined(module), 16))
    assume(math.prod(decide(graph, cost_of(workers)).problem.sizes) <= 300)
    least = min(held for _, held in everything(graph, cost_of(workers)))
    assume(least > 1)
    with pytest.raises(ShardingError, match=rf": the leanest needs .*, memory={least} or more"):
        decide_within(graph, cost_of(workers, least - 1))


@pytest.mark.parametrize(
    ("least", "text"),
    [
        (150, "no plan fits into 100 bytes, any needs 150 bytes or more: the leanest found needs "),
        (90, "no plan was found that fits into 100 bytes: the leanest found needs "),
    ],
)
def test_what_is_not_proven_is_not_said(least, text):
    decision = decide(build_graph(Product), cost_of())
    assert text in str(nothing_fits(Usage(decision.problem, decision.solution.choice), 100, least))


def test_on_two_axes_as_well():
    mesh = Mesh(dp=2, tp=2)
    points = sorted(set(everything(build_graph(Product), cost_of(mesh))))
    budgets = sorted({held for _, held in points})
    for budget in budgets[:: max(len(budgets) // 12, 1)]:
        found = decide_within(build_graph(Product), cost_of(mesh, budget))
        assert found.solution.cost == pytest.approx(min(seconds for seconds, held in points if held <= budget), rel=1e-6)


def test_sizes_that_are_not_given_are_named():
    notes = spmd.plan(Two, 2, profile=LAZY, memory=1e9).notes
    assert "memory was planned with 64 for the symbolic sizes 'n'; give them with sizes=" in notes
    for memory, sizes in ((1e9, {"n": 8}), (None, None)):
        assert not any("memory" in note for note in spmd.plan(Two, 2, profile=LAZY, memory=memory, sizes=sizes).notes)


def test_weights_that_functions_share_count_once():
    points = sorted(set(everything(build_graph(Two), cost_of())))
    for budget in sorted({held for _, held in points})[:-1]:
        found = decide_within(build_graph(Two), cost_of(memory=budget))
        assert found.solution.cost == pytest.approx(min(seconds for seconds, held in points if held <= budget), rel=1e-6)


def test_a_budget_that_the_fastest_plan_keeps_changes_nothing():
    free = spmd.plan(Mlp, 2, profile=LAZY)
    assert spmd.plan(Mlp, 2, profile=LAZY, memory=peak(free)).to_json() == free.to_json()


def test_the_plan_says_what_the_budget_costs():
    plan = spmd.plan(Mlp, 2, profile=LAZY, memory=4500)
    assert peak(plan) <= 4500
    (note,) = plan.notes
    assert note.startswith("the fastest plan needs 5.12 kB a worker, and 4.50 kB are there: this one needs ")
    assert note.endswith(" us, not 0.0 us")


@pytest.mark.parametrize(("mesh", "slack"), [(2, 0), (3, 0), (Mesh(dp=2, tp=2), 0), (Mesh(a=2, b=2, c=2), 0.25)])
def test_what_fits_computes_the_same(mesh, slack):
    """Three axes are no exact search: there the budget is wider than it must be."""
    lean = peak(spmd.plan(Mlp, mesh, profile="generic", specs={"w1": P(None, tuple(Mesh.of(mesh).axes))})) * (1 + slack)
    sharded = spmd.shard(Mlp, mesh, profile=LAZY, memory=lean)
    assert peak(sharded.plan) <= lean < peak(spmd.plan(Mlp, mesh, profile=LAZY))
    assert not difference(simulate(Mlp), simulate(sharded), None)


def test_the_memory_of_the_profile_is_the_budget():
    small = replace(LAZY, memory=4500.0)
    assert peak(spmd.plan(Mlp, 2, profile=small)) <= 4500
    assert peak(spmd.plan(Mlp, 2, profile=small, memory=math.inf)) == peak(spmd.plan(Mlp, 2, profile=LAZY)) > 4500


def test_specs_are_obeyed_before_memory_is_saved():
    with pytest.raises(ShardingError, match=r"main, memory of a worker: no plan fits into 4\.50 kB.*weights 4\.10 kB.* or looser specs"):
        spmd.plan(Mlp, 2, {"w*": P(None, None)}, profile=LAZY, memory=4500)


def test_nothing_fits_names_the_largest():
    sizes = {"max_batch_size": 4, "max_total_seq_len": 10**6, "prefill_chunk_size": 64, "page_size": 16, "support_sliding_window": 0}
    with pytest.raises(ShardingError) as caught:
        spmd.plan(mlc_llama(TINY)[0], 2, sizes=sizes, memory=100e6)
    text = str(caught.value)
    assert "no plan fits into 100.00 MB, any needs 256.36 MB or more: the leanest found needs 256." in text
    assert "most of it for paged_kv_cache 256.00 MB, " in text
    assert "Use more workers than the 2 of Mesh(tp=2), memory=256" in text and text.endswith(" or more, smaller sizes=, or looser specs.")


def test_layers_that_are_alike_are_named_together():
    with pytest.raises(ShardingError, match=r"most of it for w\* \(2 of them\) [\d.]+ kB, main\.\w+ "):
        spmd.plan(Mlp, 2, memory=2000)


@pytest.mark.parametrize("memory", [0, -1.0, math.nan])
def test_a_budget_that_is_none(memory):
    with pytest.raises(ShardingError, match=rf"memory: a worker cannot have {memory} bytes\. Give a number of bytes, memory=24e9"):
        spmd.plan(Mlp, 2, memory=memory)
