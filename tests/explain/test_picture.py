"""Pictures of tensors as text."""

import pytest

import spmd
from spmd import Mesh, P, Sharding
from spmd.explain.picture import picture
from tests.programs import Mlp, Two

MESH = Mesh(dp=2, tp=3)


def test_a_grid():
    assert picture(Sharding.parse("[dp, tp:3|6]", (4, 9)), (4, 9), MESH).splitlines() == [
        "4 x 9 [dp, tp:3|6] on Mesh(dp=2, tp=3): workers that hold each part",
        "      0:1   1:2   2:3   3:5   5:7   7:9",
        "    ┌─────┬─────┬─────┬─────┬─────┬─────┐",
        "0:2 │  0  │  1  │  2  │  0  │  1  │  2  │",
        "    ├─────┼─────┼─────┼─────┼─────┼─────┤",
        "2:4 │  3  │  4  │  5  │  3  │  4  │  5  │",
        "    └─────┴─────┴─────┴─────┴─────┴─────┘",
    ]


@pytest.mark.parametrize(
    ("text", "shape", "cells"),
    [
        ("[-, -]", (2, 2), ["0-5"]),
        ("[]", (), ["0-5"]),
        ("[tp]", (7,), ["0,3", "1,4", "2,5"]),
        ("[-, -, dp]", (2, 2, 4), ["0-2", "3-5"]),
        ("[tp:1x30]", (30,), ["0,3", "0,3", "0,3", "0,3", "0,3", "0,3", "...", "0,3"]),
    ],
)
def test_the_workers_of_each_part(text, shape, cells):
    drawn = picture(Sharding.parse(text, shape), shape, MESH)
    rows = [line.split("│")[1:-1] for line in drawn.splitlines() if "│" in line]
    assert [cell.strip() for row in rows for cell in row] == cells


def test_every_value_of_a_plan_has_one():
    for module in (Mlp, Two):
        plan = spmd.plan(module, 2, {"w1": P(None, "tp")} if module is Mlp else None)
        for name in (*plan.params, *plan.inputs, *plan.outputs, *plan.values):
            assert "workers that hold each part" in plan.visualize(name)
    with pytest.raises(spmd.ShardingError, match="there is no value 'nothing'"):
        plan.visualize("nothing")
