"""Ways of several moves: the plan says them, and the program takes them."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, Plan
from spmd.testing import assert_equivalent
from tests.transfers.ways import BYTES

MESH = Mesh(x=2, y=4)
TWICE = {
    "main.a": P(None, "tp", "dp"),
    "main.v": P(None, "tp", "dp"),
    "main.return[0]": P("tp", None, "dp"),
    "main.return[1]": P("tp", None, None),
}


@I.ir_module
class Row:
    @R.function
    def main(v: R.Tensor((16,), "float32"), w: R.Tensor((6, 10), "float32")):
        with R.dataflow():
            a = R.tanh(v)
            b = R.tanh(w)
            R.output(a, b)
        return a, b


def specs(source, target):
    return {"main.v": P(source), "main.a": P(source), "main.return[0]": P(target)}


@pytest.mark.parametrize(
    ("source", "target", "sent"),
    [
        ("y", ("x", "y"), [("permute", "x+y", 8)]),
        (("x", "y"), "y", [("permute", "x+y", 8), ("all_gather", "x", 8)]),
        ("x", "y", [("permute", "x+y", 8 * 2)]),
    ],
    ids=str,
)
def test_what_is_sent_is_what_the_plan_says(source, target, sent):
    sharded = assert_equivalent(Row, MESH, specs(source, target), profile=BYTES)
    assert [(c.kind, c.axis, c.bytes) for c in sharded.plan.collectives] == sent


@pytest.mark.parametrize("target", [P("y", None), P(("x", "y"), None), P("y", "x"), P(None, ("y", "x"))], ids=str)
def test_uneven_parts_take_several_moves(target):
    assert_equivalent(Row, MESH, {"main.w": P("x", "y"), "main.b": P("x", "y"), "main.return[1]": target}, profile=BYTES)


def test_a_plan_that_is_read_back_goes_the_same_way():
    plan = spmd.plan(Row, MESH, specs("y", ("x", "y")), profile=BYTES)
    assert spmd.lower(Row, Plan.from_json(plan.to_json())).script().count("R.spmd.permute") == 1


@I.ir_module
class Twice:
    """One value is returned in two ways, of which one begins with the other."""

    @R.function
    def main(v: R.Tensor((4, 8, 6), "float32")):
        with R.dataflow():
            a = R.tanh(v)
            R.output(a)
        return a, a


def test_a_way_goes_on_from_where_another_one_came_by():
    mesh = Mesh(dp=2, tp=2)
    sharded = assert_equivalent(Twice, mesh, TWICE, profile=BYTES)
    assert [(c.kind, c.axis, c.reason) for c in sharded.plan.collectives] == [
        ("all_to_all", "tp", "'a' is kept as [-, tp, dp], specs['main.return[0]'] asks for [tp, -, dp] at the end"),
        ("all_gather", "dp", "'a' is kept as [-, tp, dp], specs['main.return[1]'] asks for [tp, -, -] at the end"),
    ]
    read = Plan.from_json(sharded.plan.to_json())
    assert spmd.lower(Twice, read).script() == sharded.mod.script()
