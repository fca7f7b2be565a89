"""The steps between two shardings: which collectives they are, and that NumPy shards moved by them arrive."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd.errors import ShardingError
from spmd.placement import layout
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.transfers.conversion import moved_split

from .ways import conversion

SHAPE = (6, 8)


def steps(source, target, mesh=None):
    found = conversion(Sharding.parse(source, SHAPE), Sharding.parse(target, SHAPE), mesh or Mesh(tp=2), SHAPE)
    return None if found is None else [s.kind for s in found]


@pytest.mark.parametrize(
    ("source", "target", "kinds"),
    [
        ("[-, -]", "[-, -]", []),
        ("[tp, -]", "[tp, -]", []),
        ("[-, -]", "[tp, -]", ["slice"]),
        ("[tp, -]", "[-, -]", ["all_gather"]),
        ("[tp, -]", "[-, tp]", ["all_to_all"]),
        ("[-, -] sum@tp", "[-, -]", ["all_reduce"]),
        ("[-, -] sum@tp", "[-, tp]", ["reduce_scatter"]),
        ("[-, -] max@tp", "[-, tp]", ["all_reduce", "slice"]),
        ("[-, -] sum@tp", "[-, -] sum@tp", []),
        ("[-, tp:2|6]", "[-, tp]", ["all_gather", "slice"]),
        ("[-, tp:2|6]", "[tp, -]", ["all_to_all"]),
        ("[-, -]", "[-, -] sum@tp", None),
        ("[tp, -]", "[-, -] sum@tp", None),
        ("[-, -] max@tp", "[-, -] sum@tp", None),
    ],
)
def test_steps(source, target, kinds):
    assert steps(source, target) == kinds


def test_every_step_starts_where_the_last_one_ended():
    mesh = Mesh(tp=2)
    source, target = Sharding.parse("[-, tp:2|6]", SHAPE), Sharding.parse("[-, tp]", SHAPE)
    gather, cut = conversion(source, target, mesh, SHAPE)
    assert gather.source == source and gather.target == cut.source == Sharding.replicated(2) and cut.target == target
    assert (gather.dim, cut.dim) == (1, 1)


SHARDINGS = ["[-, -]", "[tp, -]", "[-, tp]", "[tp:4|2, -]", "[-, tp:2|6]", "[tp:6~2, -]", "[-, tp:4~4|4]", "[-, -] sum@tp"]


TWO_AXES = ["[dp, tp]", "[dp+tp, -]", "[tp+dp, -]", "[-, dp]", "[dp, -] sum@tp", "[-, -] sum@dp sum@tp", "[tp:4|2, dp]", "[-, dp+tp:2|6]"]


def alone(split, dim):
    """A dimension split among the members of one group, as a sharding of what they hold together."""
    return Sharding(tuple(Split(("g",), split.segments) if d == dim else None for d in range(len(SHAPE))))


def gathered(parts, step, mesh):
    """What the members of a group hold together along the dimension that is gathered."""
    split, shape = moved_split(step, step.dim, mesh), list(parts[0].shape)
    shape[step.dim] = split.size
    return layout.join(parts, alone(split, step.dim), Mesh(g=len(parts)), tuple(shape))


def scattered(part, dim, place, count, step, mesh):
    """What a member of a group keeps of a shard along `dim`."""
    return layout.cut(part, alone(moved_split(step, dim, mesh), dim), Mesh(g=count), place)


def of_group(parts, wanted, step, mesh):
    """The shards of a group after a step, by what that kind of collective does; a permute gives whole shards away, to who wants them."""
    count = len(parts)
    total = sum(parts) if step.reduce else None
    if step.kind == "slice":
        return [scattered(part, step.dim, i, count, step, mesh) for i, part in enumerate(parts)]
    if step.kind == "all_gather":
        return [gathered(parts, step, mesh)] * count
    if step.kind == "all_reduce":
        return [total] * count
    if step.kind == "reduce_scatter":
        return [scattered(total, step.dim, i, count, step, mesh) for i in range(count)]
    if step.kind == "all_to_all":
        sent = [[scattered(part, step.to_dim, i, count, step, mesh) for i in range(count)] for part in parts]
        return [gathered([row[i] for row in sent], step, mesh) for i in range(count)]
    left = list(range(count))
    given = []
    for want in wanted:
        place = next(p for p in left if np.array_equal(parts[p], want))
        left.remove(place)
        given.append(parts[place])
    return given


def moved(shards, step, mesh, array):
    """The shards after a step: nobody has what its group did not have."""
    assert step.kind in ("slice", "all_gather", "all_reduce", "reduce_scatter", "all_to_all", "permute")
    after = list(shards)
    wanted = [layout.cut(array, step.target, mesh, r) for r in range(mesh.size)]
    for group in mesh.groups(step.axis):
        parts = of_group([shards[r] for r in group], [wanted[r] for r in group], step, mesh)
        for rank, part in zip(group, parts, strict=True):
            after[rank] = part
    return after


def cut(array, sharding, mesh):
    """The shards of an array; of a partial one, what differs on each worker and adds up to it."""
    shards = [layout.cut(array, sharding, mesh, r) for r in range(mesh.size)]
    for axis, _ in sharding.partial:
        for first, *others in mesh.groups(axis):
            for i, rank in enumerate(others):
                shards[rank] = shards[rank] + 10.0 + i
                shards[first] = shards[first] - 10.0 - i
    return shards


def check(source, target, mesh):
    a, b = (Sharding.parse(t, SHAPE).normalized(mesh) for t in (source, target))
    found = conversion(a, b, mesh, SHAPE)
    if found is None:
        assert not set(b.partial) <= set(a.partial)
        return
    array = np.arange(1.0, 49.0).reshape(SHAPE)
    shards, now = cut(array, a, mesh), a
    for step in found:
        assert step.source == now
        shards, now = moved(shards, step, mesh, array), step.target
        assert {s.shape for s in shards} == {now.local_shape(SHAPE, mesh)}
    assert now == b
    np.testing.assert_array_equal(layout.join(shards, b, mesh, SHAPE), array)
    if not b.partial:
        for rank, shard in enumerate(shards):
            valid = layout.cut(np.ones(SHAPE), b, mesh, rank) == 1
            np.testing.assert_array_equal(shard[valid], layout.cut(array, b, mesh, rank)[valid])


@given(st.sampled_from(SHARDINGS), st.sampled_from(SHARDINGS), st.integers(1, 4))
def test_the_last_step_ends_at_the_target(source, target, workers):
    check(source, target, Mesh(tp=workers))


@given(st.sampled_from(SHARDINGS + TWO_AXES), st.sampled_from(SHARDINGS + TWO_AXES), st.sampled_from([(2, 2), (2, 3), (3, 2)]))
def test_the_last_step_ends_at_the_target_on_two_axes(source, target, sizes):
    check(source, target, Mesh(dp=sizes[0], tp=sizes[1]))


@pytest.mark.parametrize("kind", ["slice", "all_gather", "all_reduce", "all_to_all", "nonsense"])
def test_steps_of_another_kind_do_not_arrive(kind):
    """What the test above asks is more than where a step says that it ends."""
    mesh, array = Mesh(tp=2), np.arange(1.0, 49.0).reshape(SHAPE)
    a, b = Sharding.parse("[tp, -]", SHAPE), Sharding.parse("[-, tp:2|6]", SHAPE)
    (step,) = conversion(a, b, mesh, SHAPE)
    assert step.kind == "all_to_all"
    expected = [layout.cut(array, b, mesh, r) for r in range(2)]

    def arrives():
        found = moved(cut(array, a, mesh), replace(step, kind=kind), mesh, array)
        return all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))

    if kind == "nonsense":
        with pytest.raises(AssertionError):
            arrives()
    else:
        try:
            assert arrives() == (kind == "all_to_all")
        except (ShardingError, AttributeError, AssertionError):
            assert kind != "all_to_all"
