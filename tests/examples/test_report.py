"""Plans as tables."""

from types import SimpleNamespace

import numpy as np

from examples.llm.report import collectives_table, size_text, table, weights_table
from spmd import Mesh, P


def test_table():
    text = table(("name", "size"), [("a", "1"), ("long name", "23")])
    assert text.splitlines() == ["name       size", "---------  ----", "a             1", "long name    23"]


def test_sizes():
    assert [size_text(n) for n in (12, 1234, 5_600_000, 7.8e9)] == ["12 B", "1.2 kB", "5.6 MB", "7.80 GB"]


def test_weights_are_folded():
    mesh = Mesh(tp=2)
    shapes = {"model.norm.weight": (4,), "model.layers.0.up.weight": (8, 4), "model.layers.11.up.weight": (8, 4)}
    specs = {name: P("tp", None) if len(shape) == 2 else P(None) for name, shape in shapes.items()}
    params = {name: specs[name].sharding(shape, mesh, name) for name, shape in shapes.items()}
    weights = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    text = weights_table(SimpleNamespace(params=params), mesh, weights)
    assert "model.layers.*.up.weight      2  8 x 4  [tp, -]   4 x 4" in text
    assert "272 B in all, 144 B on each worker (53%)" in text


def test_collectives_are_counted():
    def one(function, size, kind="all_reduce"):
        return SimpleNamespace(function=function, kind=kind, axis="tp", bytes=size)

    plan = SimpleNamespace(collectives=[one("decode", 2304), one("decode", 2304), one("prefill", "2304*n")])
    assert [line.split(maxsplit=4) for line in collectives_table(plan).splitlines()[2:]] == [
        ["decode", "all_reduce", "tp", "2", "4.6 kB"],
        ["prefill", "all_reduce", "tp", "1", "1 x (2304*n)"],
    ]
    assert collectives_table(SimpleNamespace(collectives=[])) == "no collectives"
