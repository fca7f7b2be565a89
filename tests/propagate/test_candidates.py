"""Where there are more candidates than are considered, the plan names what lacks some."""

import re

from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh
from spmd.ir.builder import Builder
from spmd.propagate import axes_together, candidates, decide
from spmd.testing import FREE_LINKS


@I.ir_module
class Products:
    @R.function
    def main(x: R.Tensor((6, 8), "float32"), w: R.Tensor((8, 12), "float32"), v: R.Tensor((12, 4), "float32")):
        with R.dataflow():
            up = R.matmul(x, w)
            down = R.matmul(up, v)
            R.output(down)
        return down


def named(mesh, mod=Products):
    """What the notes say is cut short."""
    end = ": only the first candidates were considered"
    return {note.removesuffix(end) for note in spmd.plan(mod, mesh, profile=FREE_LINKS).notes if note.endswith(end)}


def test_nothing_is_cut_short_as_it_is():
    assert named(2) == named(Mesh(dp=2, tp=2)) == set()


spmd.rule("candidates.rows")(lambda call: call.bind("a b -> a b", whole="b"))
spmd.rule("candidates.columns")(lambda call: call.bind("a b -> a b", whole="a"))


def two_ways_each():
    """Either operator has two ways, and x has three."""
    bb, x = Builder(), relax.Var("x", relax.TensorType([6, 8], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            made = [bb.emit(relax.op.call_dps_packed(f"candidates.{n}", [x], out_ty=x.ty)) for n in ("rows", "columns")]
            out = bb.emit_output(relax.Tuple(made))
        bb.emit_func_output(out)
    return bb.finalize()


def test_operators_that_are_cut_short_are_named(monkeypatch):
    monkeypatch.setattr(candidates, "MOST", 2)
    assert named(2) == {"main: up", "main: down"}


def test_values_that_are_cut_short_are_named(monkeypatch):
    monkeypatch.setattr(candidates, "MOST", 2)
    assert named(2, two_ways_each()) == {"main: x"}
    monkeypatch.setattr(candidates, "MOST", 3)
    assert named(2, two_ways_each()) == set()


def test_on_two_axes_too(monkeypatch):
    mesh = Mesh(dp=2, tp=2)
    monkeypatch.setattr(axes_together, "MOST_SHARDINGS", 3)
    assert named(mesh) >= {"main: x", "main: w", "main: v", "main: up", "main: down"}
    monkeypatch.undo()
    monkeypatch.setattr(axes_together, "MOST_STRATEGIES", 3)
    assert named(mesh) == {"main: up", "main: down"}


def test_of_many_that_are_cut_short_there_is_one_note(monkeypatch):
    monkeypatch.setattr(axes_together, "MOST_SHARDINGS", 1)
    monkeypatch.setattr(decide, "MOST_NAMED", 1)
    first, rest = (n for n in spmd.plan(Products, Mesh(dp=2, tp=2), profile=FREE_LINKS).notes if "candidates" in n)
    assert first.endswith(": only the first candidates were considered")
    assert re.fullmatch(r"of \d+ others, from main: \w+ to main: \w+, only the first candidates were considered, too", rest)
