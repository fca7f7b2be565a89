"""What a value could have been, beside planning anew without what held it."""

from __future__ import annotations

import pytest
import tvm
from tvm.script import ir as I  # pyright: ignore[reportMissingModuleSource]
from tvm.script import relax as R  # pyright: ignore[reportMissingModuleSource]

import spmd
from spmd import P
from tests.propagate.test_remat import Turns

TWO_RESULTS = """
@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor((512, 1024), "float32"), a: R.Tensor((1024, 2048), "float32"), b: R.Tensor((1024, 512), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            up = R.matmul(x, a)
            down = R.matmul(x, b)
            R.output(up, down)
        return (up, down)
"""


@pytest.mark.parametrize("freed", [0, 1])
def test_without_the_constraint_on_one_of_two_results(freed: int) -> None:
    """Results are whole unless specs say otherwise; split as their weights are, nothing of this one is gathered."""
    specs = {"a": P(None, "tp"), "b": P(None, "tp")}
    mod = tvm.script.from_source(TWO_RESULTS, extra_vars={"I": I, "R": R})
    plan, without = spmd.plan(mod, 2, specs), spmd.plan(mod, 2, {**specs, f"main.return[{freed}]": P(None, "tp")})
    assert plan.searched is not None
    free = plan.searched.lifted(f"main[{freed}]")
    assert free is not None and str(free.sharding) == "[-, tp]"
    assert free.seconds == pytest.approx(without.cost - plan.cost) and free.seconds < 0


def test_times_of_operators_of_a_loop_count_its_turns() -> None:
    """Nothing is converted on one worker: what single operators take is what all of them take."""
    plan = spmd.plan(Turns, 1, sizes={"turn": 9})
    assert plan.searched is not None
    times = plan.searched._now
    assert times.conversions == 0 and times.operators == pytest.approx(plan.cost)
    assert sum(seconds for _, seconds in times.nodes) == pytest.approx(times.operators)
