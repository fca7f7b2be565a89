"""Meshes of several axes, end to end: placements, plans and numbers."""

from itertools import product

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P
from spmd.placement import layout
from spmd.placement.sharding import Sharding
from spmd.testing import assert_equivalent
from tests.programs import Mlp, Two
from tests.transfers.ways import conversion

SQUARE, WIDE, CUBE = Mesh(dp=2, tp=2), Mesh(dp=2, tp=3), Mesh(a=2, b=2, c=2)


def kinds(source, target, shape, mesh):
    found = conversion(Sharding.parse(source, shape), Sharding.parse(target, shape), mesh, shape)
    return None if found is None else [(s.kind, s.axis) for s in found]


@pytest.mark.parametrize(
    ("source", "target", "moves"),
    [
        # Shardy gathers here; two all-to-alls move each byte at most twice and nothing is ever whole.
        ("[y, -, x]", "[-, x+y, -]", [("all_to_all", "x"), ("all_to_all", "y")]),
        ("[x, y, -]", "[x, -, -]", [("all_gather", "y")]),
        ("[x+y, -, -]", "[x, -, -]", [("all_gather", "y")]),
        ("[x, -, -]", "[x+y, -, -]", [("slice", "y")]),
        ("[x, -, -]", "[y, -, -]", [("permute", "x+y")]),
        ("[x+y, -, -]", "[y+x, -, -]", [("permute", "x+y")]),
        ("[x, y, -]", "[y, x, -]", [("permute", "x+y")]),
        ("[-, -, -] sum@x sum@y", "[-, -, -]", [("all_reduce", "x+y")]),
        ("[-, -, -] sum@x sum@y", "[x, -, -]", [("reduce_scatter", "x"), ("all_reduce", "y")]),
        ("[-, -, -] sum@x sum@y", "[x+y, -, -]", [("reduce_scatter", "x+y")]),
        ("[-, -, -] sum@x sum@y", "[-, -, -] sum@y", [("all_reduce", "x")]),
        ("[x, -, -] sum@y", "[x, y, -]", [("reduce_scatter", "y")]),
        ("[-, -, -] sum@x", "[-, -, -] sum@y", None),
    ],
)
def test_the_moves_between_placements(source, target, moves):
    assert kinds(source, target, (4, 8, 4), Mesh(x=2, y=2)) == moves


HOSTS = Mesh(dp=2, tp=4, hosts=2)
EVEN = ["[-, -]", "[dp, -]", "[-, tp]", "[dp, tp]", "[dp+tp, -]", "[tp+dp, -]", "[-, dp+tp]", "[dp+tp:8|16, -]", "[-, tp:4|12]"]


@pytest.mark.parametrize(
    ("source", "target", "moves"),
    [
        ("[dp+tp, -]", "[-, -]", [("all_gather", "dp", "[tp:8|8, -]"), ("all_gather", "tp", "[-, -]")]),
        ("[tp+dp, -]", "[-, -]", [("all_gather", "dp", "[tp, -]"), ("all_gather", "tp", "[-, -]")]),
        ("[dp, tp]", "[-, -]", [("all_gather", "dp", "[-, tp]"), ("all_gather", "tp", "[-, -]")]),
        ("[dp+tp:8|24, -]", "[-, -]", [("all_gather", "dp", "[tp:4|4|12|12, -]"), ("all_gather", "tp", "[-, -]")]),
        ("[-, -] sum@dp sum@tp", "[dp+tp, -]", [("reduce_scatter", "tp", "[tp:8|8, -] sum@dp"), ("reduce_scatter", "dp", "[dp+tp, -]")]),
        ("[-, -] sum@dp sum@tp", "[tp, -]", [("reduce_scatter", "tp", "[tp, -] sum@dp"), ("all_reduce", "dp", "[tp, -]")]),
        ("[dp+tp, -]", "[-, dp+tp]", [("all_to_all", "dp", "[tp:8|8, dp:12~8]"), ("all_to_all", "tp", "[-, dp+tp]")]),
        ("[-, dp]", "[dp+tp, -]", [("slice", "tp", "[tp:8|8, dp]"), ("all_to_all", "dp", "[dp+tp, -]")]),
        ("[-, -]", "[dp+tp, -]", [("slice", "dp+tp", "[dp+tp, -]")]),
        # Where latencies count, small values take one over dp+tp; the planner may keep a large one as [tp, -] in between.
        ("[-, -] sum@dp sum@tp", "[-, -]", [("all_reduce", "dp", "[-, -] sum@tp"), ("all_reduce", "tp", "[-, -]")]),
        ("[dp+tp:8*, -]", "[-, -]", [("all_gather", "dp", "[tp:4|4*, -]"), ("all_gather", "tp", "[-, -]")]),
        # The pieces would be uneven: shards change hands first.
        (
            "[-, dp+tp]",
            "[-, -]",
            [("permute", "dp+tp", "[-, tp+dp:12~2]"), ("all_gather", "dp", "[-, tp:12~4]"), ("all_gather", "tp", "[-, -]")],
        ),
    ],
)
def test_the_moves_between_hosts(source, target, moves):
    """In stages, so that what goes over the network is as little as it can be."""
    shape = (32 if "|24" in source else 16, 12)
    for mesh in (HOSTS, Mesh(dp=2, tp=4, links={"dp": "network"})):
        steps = conversion(Sharding.parse(source, shape), Sharding.parse(target, shape), mesh, shape)
        assert steps is not None and [(s.kind, s.axis, str(s.target)) for s in steps] == moves


@pytest.mark.parametrize("mesh", [Mesh(dp=2, tp=2, hosts=4), Mesh(dp=2, tp=2, links={"tp": "nvlink"})], ids=str)
def test_axes_that_are_all_alike_are_taken_at_once(mesh):
    """No matter whether all cross hosts or none does."""
    for source, target in product(EVEN, EVEN):
        assert kinds(source, target, (24, 16), mesh) == kinds(source, target, (24, 16), SQUARE)


@pytest.mark.parametrize("mesh", [HOSTS, Mesh(tp=2, dp=4, hosts=4), Mesh(dp=2, tp=4, hosts=2, devices=[0, 4, 1, 5, 2, 6, 3, 7])], ids=str)
def test_every_step_between_hosts_arrives(mesh):
    whole = np.arange(24.0 * 16).reshape(24, 16)
    for source, target in product(EVEN, EVEN):
        now = Sharding.parse(source, whole.shape)
        for step in conversion(now, Sharding.parse(target, whole.shape), mesh, whole.shape) or ():
            assert step.source == now
            now = step.target
            shards = [layout.cut(whole, now, mesh, rank) for rank in range(mesh.size)]
            assert (layout.join(shards, now, mesh, whole.shape) == whole).all()
        assert now == Sharding.parse(target, whole.shape)


PLACEMENTS = ["[-, -]", "[dp, -]", "[-, tp]", "[dp, tp]", "[tp, dp]", "[dp+tp, -]", "[tp+dp, -]", "[-, dp+tp]", "[tp, -]", "[-, tp:3|4]"]


@given(st.sampled_from(PLACEMENTS), st.sampled_from(PLACEMENTS), st.sampled_from([SQUARE, WIDE]))
def test_every_step_arrives(source, target, mesh):
    """Each step starts where the last one ended, and cut and join agree on what the placements hold."""
    shape = (5, 7)
    steps = conversion(Sharding.parse(source, shape), Sharding.parse(target, shape), mesh, shape)
    assert steps is not None
    now = Sharding.parse(source, shape)
    whole = np.arange(35.0).reshape(shape)
    for step in steps:
        assert step.source == now
        now = step.target
        shards = [layout.cut(whole, now, mesh, rank) for rank in range(mesh.size)]
        assert (layout.join(shards, now, mesh, shape) == whole).all()
    assert now == Sharding.parse(target, shape)


@I.ir_module
class Moved:
    """One value through every pair of placements: an identity that the planner cannot choose."""

    @R.function
    def main(x: R.Tensor((5, 7), "float64"), y: R.Tensor((5, 7), "float64")):
        with R.dataflow():
            z = R.add(x, y)
            R.output(z)
        return z


def spec(text):
    """The `P` that asks for a placement."""
    found = []
    for dim in text[1:-1].split(", "):
        axes, _, segments = dim.partition(":")
        found.append(None if dim == "-" else (*axes.split("+"), *map(int, segments.split("|"))) if segments else tuple(axes.split("+")))
    return P(*found)


@I.ir_module
class MovedEvenly:
    @R.function
    def main(x: R.Tensor((24, 16), "float64"), y: R.Tensor((24, 16), "float64")):
        with R.dataflow():
            z = R.add(x, y)
            R.output(z)
        return z


@pytest.mark.parametrize("target", EVEN[4:])
@pytest.mark.parametrize("mesh", [Mesh(dp=2, tp=2, hosts=2), HOSTS], ids=str)
def test_values_arrive_between_hosts(mesh, target):
    for source in EVEN:
        specs = {"main.x": spec(source), "main.y": spec(target), "main.z": spec(target), "main.return": spec(source)}
        assert_equivalent(MovedEvenly, mesh, specs)


@pytest.mark.parametrize("mesh", [Mesh(dp=2, tp=2, hosts=2), HOSTS], ids=str)
def test_sums_between_hosts_are_scattered_in_stages(mesh):
    specs = {"w1": P(None, ("dp", "tp")), "w2": P(("dp", "tp"), None), "main.return": P(None, ("dp", "tp"))}
    network = spmd.Profile("network", 1e12, 1e12, 1e11, 1e-9, links={"network": spmd.Link(1e9, 1e-9)})
    plan = assert_equivalent(Mlp, mesh, specs, profile=network).plan
    size, tp = 4 * 16 * 4, mesh.axes["tp"]
    assert [(c.kind, c.axis, c.bytes) for c in plan.collectives] == [("reduce_scatter", "tp", size), ("reduce_scatter", "dp", size // tp)]


@pytest.mark.parametrize("target", PLACEMENTS)
@pytest.mark.parametrize("mesh", [SQUARE, WIDE], ids=str)
def test_values_arrive_unevenly_split(mesh, target):
    """A (5, 7) array, of which neither size is divided by any axis, on nested splits."""
    for source in PLACEMENTS[:-1]:
        if ":" not in target:
            specs = {"main.x": spec(source), "main.y": spec(target), "main.z": spec(target), "main.return": spec(source)}
            assert_equivalent(Moved, mesh, specs)


@pytest.mark.parametrize("mesh", [SQUARE, WIDE, CUBE, Mesh(one=1, tp=3)], ids=str)
@pytest.mark.parametrize("module", [Mlp, Two], ids=["mlp", "two"])
def test_programs_are_equivalent(module, mesh):
    assert_equivalent(module, mesh)
    first, last = next(iter(mesh.axes)), list(mesh.axes)[-1]
    assert_equivalent(module, mesh, {"w1" if module is Mlp else "w": P(None, (first, last) if first != last else first)})
    assert_equivalent(module, mesh, {"main.x" if module is Mlp else "first.x": P(first, last)})


def test_two_products_are_split_over_one_axis_and_their_batch_over_the_other():
    plan = spmd.plan(Mlp, SQUARE, {"main.x": P("dp", None), "w1": P(None, "tp")})
    assert str(plan.params["w2"]) == "[tp, -]" and str(plan.values["main.up"]) == "[dp, tp]"


@I.ir_module
class Unflatten:
    """Two axes on one dimension, then the dimension becomes two; and a reshape that regroups."""

    @R.function
    def heads(x: R.Tensor((8, 6), "float64")):
        with R.dataflow():
            y = R.reshape(x, R.shape([2, 4, 6]))
            z = R.nn.softmax(y, axis=-1)
            R.output(z)
        return z

    @R.function
    def regroup(x: R.Tensor((12, 8), "float64")):
        with R.dataflow():
            y = R.reshape(x, R.shape([16, 6]))
            z = R.tanh(y)
            R.output(z)
        return z

    @R.function
    def flatten(x: R.Tensor((2, 4, 6), "float64")):
        with R.dataflow():
            y = R.reshape(x, R.shape([8, 6]))
            z = R.tanh(y)
            R.output(z)
        return z


def test_two_axes_on_one_dimension_then_unflatten():
    """DTensor gave wrong numbers here: the major axis goes on with the major part, the minor axis with the minor part."""
    specs = {"heads.x": P(("dp", "tp"), None), "heads.y": P("dp", "tp", None), "heads.return": P("dp", "tp", None)}
    plan = spmd.plan(Unflatten, SQUARE, specs)
    assert [c for c in plan.collectives if c.function == "heads"] == []
    assert_equivalent(Unflatten, SQUARE, specs)
    specs = {"flatten.x": P("dp", "tp", None), "flatten.y": P(("dp", "tp"), None), "flatten.return": P(("dp", "tp"), None)}
    assert [c for c in spmd.plan(Unflatten, SQUARE, specs).collectives if c.function == "flatten"] == []
    assert_equivalent(Unflatten, SQUARE, specs)


@pytest.mark.parametrize("mesh", [Mesh(tp=4), SQUARE], ids=str)
def test_a_view_that_regroups_with_its_second_dimension_split(mesh):
    """(12, 8) seen as (16, 6) with dimension 1 split 4 ways."""
    axes = tuple(mesh.axes)
    assert_equivalent(Unflatten, mesh, {"regroup.x": P(None, axes), "regroup.return": P(None, axes)})
    assert_equivalent(Unflatten, mesh, {"regroup.x": P(None, axes), "regroup.y": P(axes, None)})


def test_random_numbers_are_those_of_one_device():
    """The same, whatever the mesh: nothing random hangs on the worker."""
    sharded = spmd.shard(Mlp, CUBE, {"w1": P(("a", "b", "c"), None)})
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=s).astype("float32") for s in ((4, 16), (16, 32), (32, 16))]
    with spmd.workers(sharded) as many, spmd.workers(Mlp) as one:
        np.testing.assert_allclose(many["main"](*arguments), one["main"](*arguments), rtol=1e-5, atol=1e-5)


def test_what_is_wrong_with_a_spec_is_said():
    with pytest.raises(spmd.ShardingError, match=r"uses mesh axis 'tp' twice"):
        spmd.plan(Mlp, SQUARE, {"w1": P("tp", ("dp", "tp"))})
    with pytest.raises(spmd.ShardingError, match=r"names mesh axis 'pp'. The axes of Mesh\(dp=2, tp=2\) are 'dp', 'tp'"):
        spmd.plan(Mlp, SQUARE, {"w1": P("pp", None)})


def test_three_axes_are_planned_together():
    plan = spmd.plan(Mlp, CUBE, {"w1": P(None, ("a", "b", "c"))})
    assert str(plan.params["w2"]) == "[a+b+c, -]"
    assert plan.gap == 0.0
    assert not plan.notes


def test_the_lowered_program_names_joined_axes():
    text = spmd.shard(Mlp, SQUARE, {"w1": P(None, ("dp", "tp"))}).mod.script()
    assert 'axis="dp+tp"' in text
    assert tvm.script.from_source(text) is not None
