"""Dataclasses to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from spmd.mesh import Mesh
from spmd.serialize import dumps, loads


@dataclass(frozen=True)
class Leaf:
    name: str
    sizes: tuple[int | str, ...] | None = None


Tree = Leaf | tuple["Tree", ...]


@dataclass
class Everything:
    mesh: Mesh
    tree: Tree
    pairs: dict[str, tuple[int, Leaf]] = field(default_factory=dict)
    leaves: list[Leaf] = field(default_factory=list)
    number: float | None = None


TREES = st.recursive(
    st.builds(Leaf, st.text(max_size=3), st.none() | st.lists(st.integers() | st.text(max_size=2), max_size=3).map(tuple)),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@given(TREES, st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_trees_of_any_depth_come_back(tree, number):
    value = Everything(Mesh(dp=2, tp=3), tree, {"a": (1, Leaf("b"))}, [Leaf("c", (1, "n"))], number)
    text = dumps(value)
    back = loads(Everything, text)
    assert back == value
    assert dumps(back) == text


def test_meshes_come_back_with_all_that_was_said_of_them():
    for mesh in (Mesh(tp=2), Mesh(dp=2, tp=2, hosts=2, links={"tp": "pcie"}), Mesh(dp=2, tp=2, hosts=2, devices=[0, 2, 1, 3])):
        assert loads(Everything, dumps(Everything(mesh, ()))).mesh == mesh
    assert json.loads(dumps(Everything(mesh, ())))["mesh"] == {"dp": 2, "tp": 2, "hosts": 2, "devices": [0, 2, 1, 3]}


def test_the_text_is_plain_json_in_the_order_of_the_fields():
    raw = json.loads(dumps(Everything(Mesh(tp=2), (Leaf("a"),))))
    assert list(raw) == ["@", "mesh", "tree", "pairs", "leaves", "number"]
    assert raw["mesh"] == {"tp": 2} and raw["tree"] == [{"@": "Leaf", "name": "a", "sizes": None}]
