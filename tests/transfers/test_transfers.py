"""Ways between shardings: the fastest there are, by the cost's own time, and the same one at a time as all at once."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd import Link, Profile
from spmd.costs.cost import INFEASIBLE, Cost
from spmd.costs.profile import profile_of
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.transfers.conversion import move_between, moves_through

from .ways import BYTES, bytes_of, conversion

TWO_BY_FOUR = Mesh(x=2, y=4)


@pytest.mark.parametrize(
    ("source", "target", "shape", "moves", "sent"),
    [
        ("[y]", "[x+y]", (16,), [("slice", "x", "[y+x]"), ("permute", "x+y", "[x+y]")], 8),
        ("[x+y]", "[y]", (16,), [("permute", "x+y", "[y+x]"), ("all_gather", "x", "[y]")], 16),
        ("[x]", "[y]", (32,), [("slice", "y(1)2", "[x+y(1)2]"), ("permute", "x+y", "[y]")], 32),
        # Cut where it lies first, then all of it is handed on at once.
        ("[x, -]", "[-, x+y]", (16, 64), [("slice", "y", "[x+y, -]"), ("all_to_all", "x+y", "[-, x+y]")], 448),
        ("[x, y]", "[y, x]", (8, 8), [("all_to_all", "y(2)2", "[x+y(2)2, y(1)2]"), ("permute", "x+y", "[y, x]")], 48),
        ("[-] sum@y", "[x+y]", (64,), [("slice", "x", "[x] sum@y"), ("reduce_scatter", "y", "[x+y]")], 96),
        # Five rows over two workers and over four are padded otherwise: whole in between.
        ("[x]", "[y]", (5,), [("all_gather", "x", "[-]"), ("slice", "y", "[y]")], 12),
        ("[x:4|4, -]", "[-, y]", (8, 8), [("slice", "y", "[x:4|4, y]"), ("all_gather", "x", "[-, y]")], 32),
    ],
)
def test_ways_that_send_the_least(source, target, shape, moves, sent):
    cost = bytes_of(TWO_BY_FOUR)
    a, b = Sharding.parse(source, shape), Sharding.parse(target, shape)
    steps = conversion(a, b, TWO_BY_FOUR, shape)
    assert [(s.kind, s.axis, str(s.target)) for s in steps] == moves
    assert sum(cost.exchange_time(s.kind, s.axis, cost.step_bytes(s, shape, 4)) for s in steps if s.kind != "slice") == sent
    assert cost.convert(shape, 4, a, b) == pytest.approx(sent)


def every(axes, rank, partial):
    """All shardings of a tensor over whole axes."""
    found = []
    for places in product(range(-2 if partial else -1, rank), repeat=len(axes)):
        for order in permutations(zip(axes, places, strict=True)):
            dims = ["+".join(a for a, p in order if p == d) or "-" for d in range(rank)]
            sums = [f" sum@{a}" for a, p in zip(axes, places, strict=True) if p == -2]
            found.append(f"[{', '.join(dims)}]{''.join(sums)}")
    return list(dict.fromkeys(found))


def split_dims(*shardings):
    return {dim for sharding in shardings for dim, split in enumerate(sharding.dims) if split}


def by_trying_all(cost, shardings, shape):
    """The least time between any two by the times of single moves, through any that splits no dimension which neither of them splits."""
    count = len(shardings)
    once = np.full((count, count), np.inf)
    for i, j in product(range(count), repeat=2):
        step = move_between(shardings[i], shardings[j], cost.mesh)
        once[i, j] = 0.0 if i == j else np.inf if step is None else cost.step_time(step, shape, 4)
    found = np.empty((count, count))
    for some in product([False, True], repeat=len(shape)):
        dims, least = {dim for dim, splits in enumerate(some) if splits}, once
        for via in range(count):
            if split_dims(shardings[via]) <= dims:
                least = np.minimum(least, least[:, via, None] + least[None, via])
        for i, j in product(range(count), repeat=2):
            if split_dims(shardings[i], shardings[j]) == dims:
                found[i, j] = least[i, j]
    return found


FAST, LATE = profile_of("h100"), replace(BYTES, link_latency=100.0)


@pytest.mark.parametrize("profile", [BYTES, LATE, FAST], ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("mesh", "shape", "partial"),
    [
        (Mesh(x=2, y=2), (8, 8), True),
        (Mesh(x=2, y=2), (8, 8, 8), False),
        (Mesh(x=3, y=3), (9, 18), True),
        (Mesh(x=2, y=2, z=2), (16,), True),
        (Mesh(x=2, y=2, z=2), (16, 8), False),
    ],
    ids=str,
)
def test_no_way_is_faster(profile, mesh, shape, partial):
    cost = Cost(mesh, profile)
    shardings = [Sharding.parse(text, shape) for text in every(tuple(mesh.axes), len(shape), partial)]
    expected = by_trying_all(cost, shardings, shape)
    np.testing.assert_allclose(cost.transfers.seconds(shape, 4, shardings, shardings), expected, rtol=1e-6)


UNEVEN = ["[-, -]", "[x, -]", "[-, y]", "[x, y]", "[x+y, -]", "[y+x, -]", "[-, x+y]"]
UNEVEN += ["[x:4|2, y]", "[-, y:2|6]", "[x:6~2, -]", "[-, x:4~4|4]"]
SUMS = ["[-, -] sum@x", "[y, -] sum@x", "[-, -] sum@x sum@y", "[x, -] max@y", "[-, -] min@x max@y"]
MESHES = [
    Mesh(x=2, y=2),
    Mesh(x=2, y=4),
    Mesh(x=3, y=2),
    Mesh(x=2, y=4, hosts=2),
    Mesh(x=2, y=2, z=2),
    Mesh(x=2, y=4, a=2, b=2, c=2),
    Mesh(x=1, y=4),
]


@given(
    st.lists(st.sampled_from(UNEVEN + SUMS), min_size=1, max_size=4),
    st.lists(st.sampled_from(UNEVEN + SUMS), min_size=1, max_size=4),
    st.sampled_from(MESHES),
    st.sampled_from([BYTES, LATE, FAST]),
    st.booleans(),
)
def test_a_table_has_the_times_of_the_moves(sources, targets, mesh, profile, gather):
    """One by one or many at once, the time is that of the moves which the plan will have; and where there is none, there is none."""
    shape, cost = (6, 8), Cost(mesh, profile)
    rows, columns = ([Sharding.parse(text, shape).normalized(mesh) for text in texts] for texts in (sources, targets))
    times = Cost(mesh, profile).conversions(shape, 4, rows, columns, gather)
    for (i, a), (j, b) in product(enumerate(rows), enumerate(columns)):
        steps = cost.transfers.steps(shape, 4, a, b, gather=gather)
        assert cost.convert(shape, 4, a, b, gather) == pytest.approx(times[i, j], rel=1e-6)
        if steps is None:
            assert times[i, j] == INFEASIBLE
            continue
        assert sum(cost.step_time(step, shape, 4) for step in steps) == pytest.approx(times[i, j], rel=1e-6)
        assert gather or all(step.kind != "all_gather" for step in steps)
        if steps:
            assert moves_through((a, *[step.target for step in steps]), mesh) == list(steps)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_what_is_expected_changes_no_time(mesh):
    """Lists of shardings that are searched with others have the times that they have alone."""
    shape, alone, together = (6, 8), Cost(mesh, FAST), Cost(mesh, FAST)
    shardings = [Sharding.parse(text, shape).normalized(mesh) for text in UNEVEN + SUMS]
    together.transfers.expect(shape, shardings)
    for sources, targets in (([shardings[0]], shardings[:4]), (shardings[5:9], shardings[2:6]), (shardings[11:14], shardings[:7])):
        times = [cost.transfers.seconds(shape, 4, sources, targets) for cost in (alone, together)]
        np.testing.assert_array_equal(*times)


def test_tensors_that_are_split_alike_are_searched_once():
    cost = Cost(Mesh(x=8, y=8), FAST)
    shardings = [Sharding.parse(text, (64, 64)) for text in every(("x", "y"), 2, False)]
    for rows, columns in ((64, 64), (4096, 14336), (8192, 64)):
        shape = (rows, columns)
        cost.conversions(shape, 2, *[[Sharding.parse(str(s), shape) for s in shardings]] * 2)
    assert len({id(family.graph) for family in cost.transfers._families.values()}) == 1


def test_the_way_hangs_on_the_bytes():
    """A small sum over two hosts takes one collective, and of a large one less goes between them."""
    cost = Cost(Mesh(dp=2, tp=4, hosts=2), Profile("late", 1e12, 1e12, 1e9, 1e-5, links={"network": Link(1e8, 1e-5)}))
    ways = []
    for rows in (8, 1 << 20):
        source, target = Sharding.parse("[-, -] sum@dp sum@tp", (rows, 8)), Sharding.parse("[-, -]", (rows, 8))
        ways.append([(s.kind, s.axis) for s in cost.transfers.steps((rows, 8), 4, source, target)])
    assert ways == [[("all_reduce", "dp+tp")], [("all_reduce", "dp"), ("all_reduce", "tp")]]


def test_what_is_more_than_one_move_apart_is_no_step():
    mesh = TWO_BY_FOUR
    a, b, c = (Sharding.parse(text, (16, 8)) for text in ("[y, -]", "[y+x, -]", "[x+y, -]"))
    assert move_between(a, c, mesh) is None
    assert [s.kind for s in moves_through((a, b, c), mesh)] == ["slice", "permute"]
    assert moves_through((a, c), mesh) is None
    assert move_between(Sharding.parse("[-, -] sum@x", (16, 8)), Sharding.parse("[x, y]", (16, 8)), mesh) is None
    assert move_between(Sharding.parse("[-, -] sum@x", (16, 8)), Sharding.parse("[-, -] max@x", (16, 8)), mesh) is None
