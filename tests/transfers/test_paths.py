"""Paths that differ in the names of axes alone are searched once, and take what each would take on its own."""

import pytest

from spmd.costs.cost import Cost
from spmd.costs.profile import profile_of
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.transfers.graph import Graph

SOURCES = ["[-, -]", "[x, -]", "[y, z]", "[z+x, y]", "[x:4|4, z]", "[-, y] sum@x", "[-, -] sum@x sum@z", "[x, -] sum@y"]
TARGETS = ["[-, -]", "[y, -]", "[z, x]", "[x+y+z, -]", "[-, z+y]", "[y:4|4, x]", "[z, y]"]


def times(mesh):
    """From each source to each target, and how many renamings change nothing, for each search."""
    cost = Cost(mesh, profile_of("h100"))
    sources, targets = ([Sharding.parse(text, (8, 16)) for text in texts] for texts in (SOURCES, TARGETS))
    found = cost.conversions((8, 16), 4, sources, targets)
    return found, {len(paths._renamed) for paths in cost.transfers._paths.values()}


@pytest.mark.parametrize(
    ("mesh", "renamings"),
    [
        (Mesh(x=2, y=2, z=2), 6),
        (Mesh(x=2, y=2, z=2, links={"y": "pcie"}), 2),
        (Mesh(x=2, y=2, z=2, hosts=2), 2),
    ],
)
def test_axes_that_differ_by_name_alone(mesh, renamings, monkeypatch):
    found, counted = times(mesh)
    assert max(counted) == renamings
    monkeypatch.setattr(Graph, "renamings", property(lambda graph: []))
    alone, counted = times(mesh)
    assert counted == {1}
    assert (found == alone).all()
