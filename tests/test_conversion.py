"""The steps between two shardings: which collectives they are, and that NumPy shards moved by them arrive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd import layout
from spmd.conversion import conversion
from spmd.mesh import Mesh
from spmd.sharding import Sharding

SHAPE = (6, 8)


def steps(source, target, mesh=None):
    found = conversion(Sharding.parse(source, SHAPE), Sharding.parse(target, SHAPE), mesh or Mesh(tp=2))
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
    gather, cut = conversion(source, target, mesh)
    assert gather.source == source and gather.target == cut.source == Sharding.replicated(2) and cut.target == target
    assert (gather.dim, cut.dim) == (1, 1)


SHARDINGS = ["[-, -]", "[tp, -]", "[-, tp]", "[tp:4|2, -]", "[-, tp:2|6]", "[tp:6~2, -]", "[-, tp:4~4|4]", "[-, -] sum@tp"]


def moved(shards, step, mesh):
    """What each step does, in NumPy, on global values."""
    whole = layout.join(shards, step.source, mesh, SHAPE)
    return [layout.cut(whole, step.target, mesh, r) for r in range(mesh.size)]


@given(st.sampled_from(SHARDINGS), st.sampled_from(SHARDINGS), st.integers(1, 4))
def test_the_last_step_ends_at_the_target(source, target, workers):
    mesh = Mesh(tp=workers)
    a, b = (Sharding.parse(t, SHAPE).normalized(mesh) for t in (source, target))
    found = conversion(a, b, mesh)
    if found is None:
        assert b.partial and not a.partial
        return
    array = np.arange(48.0).reshape(SHAPE)
    shards = [layout.cut(array, a, mesh, r) for r in range(workers)]
    now = a
    for step in found:
        assert step.source == now
        shards, now = moved(shards, step, mesh), step.target
    assert now == b
    np.testing.assert_array_equal(layout.join(shards, b, mesh, SHAPE), array)
