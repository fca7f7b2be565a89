"""Candidates over several axes: parts of axes that are left out on three, and meshes of more axes than can be searched."""

import re

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, ShardingError
from spmd.costs.cost import Cost
from spmd.propagate import axes_together, axis_sets
from spmd.propagate.axes_together import find_candidates
from spmd.propagate.second import second_places
from spmd.testing import assert_equivalent
from tests.presets.llama import llama
from tests.propagate.test_candidates import Products
from tests.propagate.test_never_worse import annotated, cost
from tests.propagate.test_optimum import SLOW_WORKERS


@I.ir_module
class Sums:
    @R.function
    def main(x: R.Tensor((8, 12), "float32"), w: R.Tensor((8, 12), "float32")):
        y: R.Tensor((8, 12), "float32") = R.add(x, w)
        z: R.Tensor((8, 12), "float32") = R.tanh(y)
        return z


def parts(mesh):
    """The parts of axes that any strategy splits by, and what lacks candidates."""
    found = find_candidates(annotated(llama("forward")[0], mesh), mesh)
    used = {axis for strategies in found.strategies.values() for one in strategies for _, split in one.splits for axis in split.axes}
    return used - set(mesh.axes), found.cut_short


def test_parts_of_axes_are_left_out_on_three_and_named(monkeypatch):
    """Two heads of keys over 4 workers: each goes to two of them, which is for parts of their axis to say."""
    assert parts(Mesh(a=2, c=4)) == ({"c(1)2", "c(2)2"}, [])
    used, cut_short = parts(Mesh(a=2, b=2, c=4))
    assert used == set()
    monkeypatch.setattr(axis_sets, "MOST_PARTS", 4)
    used, fewer = parts(Mesh(a=2, b=2, c=4))
    assert used == {"c(1)2", "c(2)2"} and len(fewer) < len(cut_short)


@pytest.mark.parametrize(("mesh", "fewer"), [(Mesh(dp=2, tp=4), 1), (Mesh(dp=2, tp=2, cp=2), 3)], ids=str)
def test_a_mesh_has_all_that_those_have_which_it_refines(mesh, fewer, monkeypatch):
    """However few candidates are considered: strategies, placements, and pairs of placements that values may be in at once."""
    monkeypatch.setattr(axes_together, "MOST_STRATEGIES", 16)
    monkeypatch.setattr(axes_together, "MOST_SHARDINGS", 8)
    graph, cost = annotated(llama("forward")[0], mesh), Cost(mesh, SLOW_WORKERS)
    found = find_candidates(graph, mesh)
    assert len(found.coarser) == fewer and found.cut_short

    def pairs(candidates):
        """Value and the two placements."""
        seconds = second_places(graph, candidates, cost)
        return {(value, candidates.shardings[value][i], other) for value, second in seconds.items() for i, other in second}

    assert pairs(found)
    for coarse in found.coarser:
        for node, strategies in coarse.strategies.items():
            assert set(strategies) <= set(found.strategies[node])
            for i, value in enumerate(node.outputs):
                assert {s.outputs[i] for s in strategies if s.outputs[i] in coarse.shardings[value]} <= set(found.shardings[value])
        if fewer == 1:
            assert pairs(coarse) <= pairs(found)


def test_axes_of_unlike_links_are_not_taken_as_one():
    """A mesh of one axis runs over one link, so that it is not refined by these."""
    graph = annotated(Products, Mesh(dp=2, tp=2))
    assert len(find_candidates(graph, Mesh(dp=2, tp=2)).coarser) == 1
    assert not find_candidates(graph, Mesh(dp=2, tp=2, hosts=2)).coarser


def test_four_axes_are_planned_where_tensors_are_flat():
    mesh = Mesh(a=2, b=2, c=2, d=2)
    assert cost(Products, mesh) <= cost(Products, Mesh(a=2, b=2, c=2))
    assert_equivalent(Products, mesh, {"*.x": P("a", "b"), "*.w": P("c", "d")})


@pytest.mark.parametrize(
    ("mod", "mesh"),
    [(lambda: llama("forward")[0], Mesh(a=2, b=2, c=2, d=2)), (lambda: Products, Mesh(a=2, b=2, c=2, d=2, e=2))],
    ids=["four axes", "five axes"],
)
def test_what_cannot_be_searched_is_told(mod, mesh):
    what = f"{mesh}: there are too many ways to split a tensor over {len(mesh.axes)} axes to search them all. Join axes"
    with pytest.raises(ShardingError, match=re.escape(what)):
        spmd.plan(mod(), mesh)


@pytest.mark.parametrize(
    ("mesh", "spec"),
    [
        (Mesh(tp=4), P("tp(1)2", "tp(2)2")),
        (Mesh(tp=4), P("tp(2)2", "tp(1)2")),
        (Mesh(a=2, b=4), P("a", "b(2)2")),
        (Mesh(a=1, b=2), P("a", "b")),
    ],
)
def test_what_constraints_ask_for_beside_each_other_is_done_so(mesh, spec):
    """Parts of an axis, and axes of size 1, split nothing that is not asked to be, and then all that is asked."""
    found = assert_equivalent(Sums, mesh, {"main.x": spec, "main.w": spec, "main.return": spec})
    assert not found.plan.collectives and found.plan.values["main.y"] == found.plan.values["main.x"]
