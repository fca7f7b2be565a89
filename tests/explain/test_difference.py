"""Two plans of one module."""

import pytest

import spmd
from spmd import P
from spmd.explain.difference import Traffic
from tests.programs import Mlp, Two


@pytest.fixture(scope="module")
def whole():
    return spmd.plan(Mlp, 2, {"w1": P(others=None), "w2": P(others=None)})


@pytest.fixture(scope="module")
def split():
    return spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)})


def test_equal_plans(split):
    same = split.diff(spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)}))
    assert not same and str(same) == "the plans are equal"


def test_what_differs(whole, split):
    found = whole.diff(split)
    assert found
    assert {n: tuple(map(str, pair)) for n, pair in found.params.items()} == {"w1": ("[-, -]", "[-, tp]"), "w2": ("[-, -]", "[tp, -]")}
    assert found.inputs == {} and found.outputs == {} and found.mesh is None and found.profile is None
    assert set(found.values) == {"main.up", "main.active"}
    assert found.collectives == {("main", "all_reduce", "tp"): (Traffic(0, 0), Traffic(1, 256))}
    assert found.predicted == {"main": (whole.predicted["main"], split.predicted["main"])}
    text = str(found).splitlines()
    assert text[:8] == [
        "weights: 2 differ",
        "  w1: [-, -] -> [-, tp]",
        "  w2: [-, -] -> [tp, -]",
        "values: 2 differ",
        "  main.up: [-, -] -> [-, tp]",
        "  main.active: [-, -] -> [-, tp]",
        "collectives:",
        "  main: all_reduce over tp: none -> 1 of 256 B in all",
    ]
    assert text[8] == "predicted time:" and text[9].startswith("  main: ") and text[9].endswith(" times)")


def test_it_turns_around(whole, split):
    there, back = whole.diff(split), split.diff(whole)
    assert back.params == {n: (b, a) for n, (a, b) in there.params.items()}
    assert back.collectives == {k: (b, a) for k, (a, b) in there.collectives.items()}


def test_another_mesh_profile_and_module(whole):
    other = spmd.plan(Two, spmd.Mesh(dp=2, tp=2), {"w": P(None, "tp"), "b": P(others=None)}, profile="h100")
    found = whole.diff(other)
    text = str(found).splitlines()
    assert text[:2] == ["mesh: Mesh(tp=2) -> Mesh(dp=2, tp=2)", "profile: generic -> h100"]
    assert "  w1: [-, -] -> none" in text and "  w: none -> [-, tp]" in text
    assert found.predicted["main"][1] is None and any(line.startswith("  first: none -> ") for line in text)
