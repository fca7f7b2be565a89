"""The steps of a function, as text."""

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P
from spmd.testing.equivalence import FREE_LINKS
from tests.test_meshes import MovedEvenly


@I.ir_module
class Repeated:
    """`y` is placed alike by the product and by the reshape, which write that in two ways: four over three workers, by twos."""

    @R.function
    def main(p: R.Tensor((2, 4, 4, 12), "bool")):
        with R.dataflow():
            x = R.logical_not(p)
            y = R.repeat(x, repeats=3, axis=3)
            z = R.reshape(y, R.shape([2, 4, 2, 2, 36]))
            R.output(z)
        return z


COLUMNS, GRID = P(None, ("tp", 4, 12)), P("dp", "tp")
SPECS = {"main.x": GRID, "main.y": COLUMNS, "main.z": COLUMNS, "main.return": GRID}


@pytest.fixture(scope="module")
def sharded():
    return spmd.shard(MovedEvenly, Mesh(dp=2, tp=2, hosts=2), SPECS, profile=FREE_LINKS)


def test_nothing_is_sent_to_where_nobody_takes_it(sharded):
    """The result goes on from what the operator makes: that `z` is kept in columns, as was asked, needs no gather over `dp`."""
    assert sharded.plan.listing("main").splitlines()[-5:] == [
        "  z = add(x [dp, tp:4|12], y [dp, tp:4|12]) [dp, tp:4|12]",
        "  z: all_to_all over tp, [dp, tp:4|12] -> [dp+tp, -], 768 bytes",
        "  z: put into its own order",
        "  z: all_to_all over tp, [dp+tp, -] -> [dp, tp], 768 bytes",
        "  return z [dp, tp]",
    ]


def test_a_plan_that_sends_less_is_lowered_later(sharded):
    for plan in (sharded.plan, spmd.Plan.from_json(sharded.plan.to_json())):
        tvm.ir.assert_structural_equal(spmd.lower(MovedEvenly, plan), sharded.mod)


def test_what_is_taken_must_be_brought_there(sharded):
    """A plan from which the way of the result was cut out has nothing that the return could take."""
    plan = spmd.Plan.from_json(sharded.plan.to_json())
    plan.steps["main"] = [step for step in plan.steps["main"] if getattr(step, "value", "") != "main.z"]
    with pytest.raises(
        spmd.ShardingError, match=r"plan for 'main': 'z': its steps do not say how it goes from \[-, tp:4\|12\] to \[dp, tp\]"
    ):
        spmd.lower(MovedEvenly, plan)


def test_one_placement_written_in_two_ways():
    sharded = spmd.shard(Repeated, Mesh(dp=2, tp=3, hosts=2), {"main.return": P("dp", "?", "tp", "?", "?")}, profile=FREE_LINKS)
    assert str(sharded.plan.values["main.y"]) == "[dp, -, tp:4~2, -]"
    tvm.ir.assert_structural_equal(spmd.lower(Repeated, sharded.plan), sharded.mod)
