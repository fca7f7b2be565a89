"""A plan in numbers."""

import builtins
import io
import math

import pytest

import spmd
from spmd import P
from spmd.explain.tables import Table, folded, item_bytes, shape_text, size_text, time_text
from tests.programs import Mlp, Two

COLUMNS_THEN_ROWS = {"w1": P(None, "tp"), "w2": P("tp", None)}


@pytest.fixture(scope="module")
def mlp():
    return spmd.plan(Mlp, 2, COLUMNS_THEN_ROWS)


def test_the_numbers_add_up(mlp):
    report = mlp.report()
    ((moved),) = report.moved
    assert (moved.function, moved.kind, moved.axis, moved.count, moved.bytes) == ("main", "all_reduce", "tp", 1, 256)
    assert moved.seconds == mlp.collectives[0].seconds
    (timed,) = report.timed
    assert (timed.function, timed.operators, timed.seconds, timed.collectives) == ("main", 3, mlp.predicted["main"], moved.seconds)
    spent = sum(c.seconds for c in mlp.choices["main"])
    assert timed.seconds == pytest.approx(spent + moved.seconds)
    assert [(w.name, w.count, w.whole, w.local) for w in report.weights] == [("w1", 1, 2048, 1024), ("w2", 1, 2048, 1024)]
    assert report.memory == mlp.memory and report.memory["main"].weights == 2048
    assert report.slowest == (mlp.collectives[0],)


def test_functions_share_weights_and_are_timed_alone():
    report = spmd.plan(Two, 2, {"w": P("tp", None)}, sizes={"n": 4}).report()
    assert [t.function for t in report.timed] == ["first", "second"]
    assert [w.name for w in report.weights] == ["w", "b"]


def test_padding_is_counted():
    (first, _) = spmd.plan(Mlp, 3, {"w1": P(None, "tp"), "w2": P(others=None)}).report().weights
    assert (first.whole, first.local) == (2048, 16 * 11 * 4)


TEXT = """Mesh(tp=2), profile generic

time by function
function  operators  predicted  in collectives
--------  ---------  ---------  --------------
main              3     9.0 us          5.0 us

bytes moved
function  collective  axis  count  calls  bytes    time
--------  ----------  ----  -----  -----  -----  ------
main      all_reduce  tp        1      1  256 B  5.0 us

weights: 4.1 kB in all, 2.0 kB on each worker (50%)
weight  count  whole            sharding   bytes  on a worker
------  -----  ---------------  --------  ------  -----------
w1          1  float32 16 x 32  [-, tp]   2.0 kB       1.0 kB
w2          1  float32 32 x 16  [tp, -]   2.0 kB       1.0 kB
"""


def test_the_text_needs_no_library(mlp, monkeypatch):
    load = builtins.__import__

    def without_rich(name, *args, **more):
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return load(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    text = str(mlp.report())
    assert text.startswith(TEXT)
    assert "memory of a worker\nfunction  weights  cache  activations    peak  not counted  sizes not given\n" in text
    assert "slowest collectives\nvalue  function  collective  bytes    time  reason\n" in text


def test_rich_prints_tables(mlp):
    console = pytest.importorskip("rich.console", reason="rich is not installed")
    out = io.StringIO()
    console.Console(file=out, width=160).print(mlp.report())
    assert "weights: 4.1 kB in all, 2.0 kB on each worker (50%)" in out.getvalue()
    assert "│ w1" in out.getvalue() and "[-, tp]" in out.getvalue(), "brackets are no mark-up"


def test_small_texts():
    assert [size_text(n) for n in (0, 999, 1234, 56e6, 7.891e9)] == ["0 B", "999 B", "1.2 kB", "56.0 MB", "7.89 GB"]
    assert [time_text(s) for s in (0, 1.5e-5, 0.0123, 4, 4000, math.inf)] == [
        "0.0 us",
        "15.0 us",
        "12.3 ms",
        "4.0 s",
        "4000.0 s",
        "impossible",
    ]
    assert (time_text(2e-6, sign=True), time_text(-2e-6), time_text(-1e-9, sign=True)) == ("+2.0 us", "-2.0 us", "+0.0 us")
    assert (shape_text((5, "n")), shape_text(())) == ("5 x n", "scalar")
    assert [item_bytes(t) for t in ("float16", "int4", "bool", "")] == [2, 1, 1, 0]
    assert folded("model.layers.3.mlp.w2") == "model.layers.*.mlp.w2" and folded("layer1.w") == "layer1.w"
    assert folded("p_model_layers_13_mlp_w2") == "p_model_layers_*_mlp_w2"
    assert str(Table("t", ("name", "n"), (("a", "1"), ("bb", "10")))) == "t\nname   n\n----  --\na      1\nbb    10"


def test_what_a_notebook_shows():
    sharded = spmd.shard(Mlp, 2, {"w1": P(None, "tp")})
    assert repr(sharded.plan).startswith("<Plan of 2 weights over Mesh(tp=2), predicted: main ")
    assert repr(sharded) == f"<ShardedModule of {sharded.plan!r}>"
    assert repr(sharded.plan.params["w1"]) == "<Sharding [-, tp]>"
    html = sharded._repr_html_()
    assert html == sharded.plan._repr_html_() == sharded.plan.report()._repr_html_()
    assert '<td style="text-align: left">w1</td>' in html and "<caption>memory of a worker</caption>" in html
    assert Table("<a>", ("b",), (("c & d",),)).html().count("<a>") == 0
