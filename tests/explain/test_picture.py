"""Pictures of tensors, as text and as SVG."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

import spmd
from spmd import Mesh, P, Sharding
from tests.programs import Mlp, Two

MESH = Mesh(dp=2, tp=3)


def test_a_grid():
    picture = spmd.visualize(Sharding.parse("[dp, tp:3|6]", (4, 9)), shape=(4, 9), mesh=MESH)
    assert repr(picture) == str(picture)
    assert str(picture).splitlines() == [
        "4 x 9 [dp, tp:3|6] on Mesh(dp=2, tp=3): workers that hold each part",
        "      0:1   1:2   2:3   3:5   5:7   7:9",
        "    ┌─────┬─────┬─────┬─────┬─────┬─────┐",
        "0:2 │  0  │  1  │  2  │  0  │  1  │  2  │",
        "    ├─────┼─────┼─────┼─────┼─────┼─────┤",
        "2:4 │  3  │  4  │  5  │  3  │  4  │  5  │",
        "    └─────┴─────┴─────┴─────┴─────┴─────┘",
    ]


@pytest.mark.parametrize(
    ("text", "shape", "cells", "notes"),
    [
        ("[-, -]", (2, 2), ["0-5"], []),
        ("[]", (), ["0-5"], []),
        ("[tp]", (6,), ["0,3", "1,4", "2,5"], []),
        ("[tp]", (7,), ["0,3", "1,4", "2,5"], ["each worker holds 3, padding included"]),
        ("[tp]", (2,), ["0,3", "1,4"], ["each worker holds 1, padding included", "padding alone is held by 2,5"]),
        ("[tp]", (0,), ["0-5"], []),
        ("[tp+dp]", (6,), ["0", "3", "1", "4", "2", "5"], []),
        ("[-, -, dp]", (2, 2, 4), ["0-2", "3-5"], []),
        ("[dp, -] sum@tp", (2, 2), ["0-2", "3-5"], ["every worker along tp holds a term of the sum"]),
        ("[tp:1x30]", (30,), ["0,3", "0,3", "0,3", "0,3", "0,3", "0,3", "...", "0,3"], None),
        ("[tp:*3]", (6,), ["0,3", "1,4", "2,5", "0,3", "1,4", "2,5"], []),
    ],
)
def test_the_workers_of_each_part(text, shape, cells, notes):
    picture = spmd.visualize(Sharding.parse(text, shape), shape=shape, mesh=MESH)
    rows = [line.split("│")[1:-1] for line in str(picture).splitlines() if "│" in line]
    assert [cell.strip() for row in rows for cell in row] == cells
    assert notes is None or picture.notes == notes


def test_more_than_two_dimensions_that_are_split():
    picture = spmd.visualize(P("a", "b", "c"), shape=(2, 2, 2), mesh=Mesh(a=2, b=2, c=2))
    assert picture.notes == ["dimension 2 is split over c, too: each worker of a part holds its own range of it"]
    assert "0,1" in str(picture) and "6,7" in str(picture)


def test_many_workers():
    picture = spmd.visualize(P("b", None), shape=(4, 4), mesh=Mesh(a=16, b=4))
    assert "0,4,...,60" in str(picture)
    assert len(str(spmd.visualize(P("tp"), shape=(4096,), mesh=1024)).splitlines()) < 20


@pytest.mark.parametrize(
    ("text", "shape"), [("[dp, tp:3|6]", (4, 9)), ("[-, tp]", (5, 7)), ("[]", ()), ("[tp]", (0,)), ("[tp:1x300]", (300,))]
)
def test_svg_draws_every_block_in_its_place(text, shape):
    picture = spmd.visualize(Sharding.parse(text, shape), shape=shape, mesh=MESH)
    root = ElementTree.fromstring(picture.svg())
    boxes = [box for box in root.iter("{http://www.w3.org/2000/svg}rect") if len(box)]
    area = sum(float(box.get("width")) * float(box.get("height")) for box in boxes)
    frame = next(box for box in root.iter("{http://www.w3.org/2000/svg}rect") if not len(box))
    whole = float(frame.get("width")) * float(frame.get("height"))
    assert area == pytest.approx(whole, rel=0.05) and whole > 0
    assert picture._repr_html_().startswith("<div>") and picture.svg() in picture._repr_html_()


def test_rich_prints_the_same_text_in_colours():
    picture = spmd.visualize(P("tp", None), shape=(4, 4), mesh=2)
    console = Console(width=120, force_terminal=True, color_system="truecolor")
    with console.capture() as found:
        console.print(picture)
    text = found.get()
    assert re.sub(r"\x1b\[[\d;]*m", "", text).rstrip("\n") == str(picture)
    assert len(set(re.findall(r"48;2;[\d;]+m", text))) == 2


def test_every_value_of_a_plan_has_one():
    for module in (Mlp, Two):
        plan = spmd.plan(module, 2, {"w1": P(None, "tp")} if module is Mlp else None)
        for name in (*plan.params, *plan.inputs, *plan.outputs, *plan.values):
            picture = plan.visualize(name)
            assert "workers that hold each part" in str(picture) and picture == spmd.visualize(name, plan)
            assert len(picture.sizes) == len(picture.sharding.dims)


def test_arrays_on_workers():
    sharded = spmd.shard(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)})
    weights = {"w1": np.ones((16, 32), "float32"), "w2": np.ones((32, 16), "float32")}
    with spmd.workers(sharded) as w:
        w1, _ = held = w.load(weights)
        result = w["main"](np.ones((4, 16), "float32"), *held, keep=True)
        assert spmd.visualize(w1) == spmd.visualize("w1", sharded)
        assert str(spmd.visualize(result)).startswith("4 x 16 [-, -] on Mesh(tp=2)")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"what": "w1"}, r"visualize\(\), of: nothing says whose value str 'w1' is. Write spmd.visualize"),
        ({"what": "w3", "of": "plan"}, r"visualize: there is no value 'w3'. Did you mean 'w2' or 'w1'"),
        ({"what": "w1", "of": Mlp}, r"visualize\(\), of: it takes a Plan or a ShardedModule, and got a IRModule"),
        (
            {"what": "w1", "of": "plan", "mesh": 2},
            r"mesh: a value of a plan has its own, and got a Mesh, too. Leave mesh out",
        ),
        ({"what": P("tp")}, r"visualize\(\), shape: P\('tp'\) says nothing of the shape"),
        ({"what": P("tp"), "shape": (4,)}, r"visualize\(\), mesh: P\('tp'\) says nothing of the mesh"),
        (
            {"what": P("tp", None), "shape": (4,), "mesh": 2},
            r"what: P\('tp', None\) has 2 entries, the value has 1 dimension",
        ),
        ({"what": P("dp"), "shape": (4,), "mesh": 2}, r"visualize\(\), what: P\('dp'\) names mesh axis 'dp'"),
        ({"what": P("?"), "shape": (4,), "mesh": 2}, r"visualize\(\), what: P\('\?'\) leaves a choice"),
        ({"what": Sharding.parse("[tp]", (4,)), "shape": (5,), "mesh": 2}, r"dimension 0 has size 5, and the segments add up to 4"),
        ({"what": Sharding.parse("[dp]", (4,)), "shape": (4,), "mesh": 2}, r"there is no mesh axis 'dp'"),
        ({"what": Sharding.parse("[-] sum@dp", (4,)), "shape": (4,), "mesh": 2}, r"there is no mesh axis 'dp'"),
        ({"what": P("tp"), "shape": ("n",), "mesh": 2}, r"visualize\(\), shape: it takes a whole number, 0 or more, and got str 'n'"),
        ({"what": P("tp"), "shape": 4, "mesh": 2}, r"visualize\(\), shape: it takes a tuple of sizes, and got int 4"),
        ({"what": np.zeros(3)}, r"visualize\(\), what: it takes a name, a sharding or an array on workers, and got a ndarray"),
        ({}, r"visualize\(\): missing a required argument: 'what'"),
    ],
)
def test_errors(given, message):
    if given.get("of") == "plan":
        given = {**given, "of": spmd.plan(Mlp, 2)}
    with pytest.raises(spmd.ShardingError, match=message):
        spmd.visualize(**given)
