"""Plans within a budget of memory: the fastest that fits, exactly so where programs are small, and what is said where nothing fits."""

import itertools
import logging
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Link, Mesh, P, Profile, ShardingError
from spmd.propagate import Cost, build_graph
from spmd.propagate.budget import decide_within
from spmd.propagate.cost import INFEASIBLE
from spmd.propagate.decide import decide
from spmd.propagate.memory import Usage
from spmd.testing import assert_equivalent
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


def cost_of(mesh=2, memory=None, profile=LAZY):
    return Cost(Mesh.of(mesh), profile, {}, memory)


def peak(plan):
    return max(m.peak for m in plan.memory.values())


def everything(module, cost):
    """Seconds and bytes of every choice there is."""
    decision = decide(build_graph(module), cost)
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
    points = sorted(set(everything(module, cost_of(profile=profile))))
    budgets = sorted({held for _, held in points})
    for budget in budgets:
        found = decide_within(build_graph(module), cost_of(memory=budget, profile=profile))
        best = min(seconds for seconds, held in points if held <= budget)
        assert found.solution.cost == pytest.approx(best, rel=1e-6)
        assert found.solution.gap == 0
        assert Usage(found.problem, found.solution.choice).peak <= budget
    with pytest.raises(ShardingError, match="no plan fits into"):
        decide_within(build_graph(module), cost_of(memory=budgets[0] - 1, profile=profile))
