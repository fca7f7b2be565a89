"""Dataclasses to JSON and back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.plan.serialize import dumps, loads


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


def test_newer_fields_have_their_defaults_and_strange_texts_are_errors():
    raw = json.loads(dumps(Everything(Mesh(tp=2), (), number=1.0)))
    assert loads(Everything, json.dumps({k: v for k, v in raw.items() if k not in ("pairs", "number")})) == Everything(Mesh(tp=2), ())
    for text, what in (
        (json.dumps({k: v for k, v in raw.items() if k != "tree"}), "Everything: the text has no 'tree'"),
        (json.dumps({**raw, "colour": 1}), "Everything: the text has 'colour', which it does not know"),
        ("[1]", "Everything: the text has [1], which it does not know"),
        ("{", "Everything: the text is no JSON"),
    ):
        with pytest.raises(ShardingError, match=re.escape(what)):
            loads(Everything, text)


def test_the_text_is_plain_json_in_the_order_of_the_fields():
    raw = json.loads(dumps(Everything(Mesh(tp=2), (Leaf("a"),))))
    assert list(raw) == ["@", "mesh", "tree", "pairs", "leaves", "number"]
    assert raw["mesh"] == {"tp": 2} and raw["tree"] == [{"@": "Leaf", "name": "a", "sizes": None}]
