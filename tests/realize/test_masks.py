"""What clearing padding takes: nothing where it goes with who reads or makes the value, else a copy, in time and in memory."""

import pytest
from tvm import relax

from spmd import P
from spmd.plan.steps import Mask, seconds
from spmd.testing import FREE_LINKS, assert_equivalent
from tests.program.storage import allocated

op = relax.op
ROWS, COLUMNS = 65, 48


def read(*ways, shown=False):
    """A row of 65 over workers by two, of which each of `ways` makes a result; the row itself comes back too where it is `shown`."""
    bb = relax.BlockBuilder()
    x, w = relax.Var("x", relax.TensorType([COLUMNS, ROWS], "float32")), relax.Var("w", relax.TensorType([ROWS, COLUMNS], "float32"))
    with bb.function("main", [x, w], attrs={"num_input": 1}):
        with bb.dataflow():
            y = bb.emit(op.cos(x), "y")
            results = [bb.emit(way(y, w)) for way in ways]
            out = bb.emit_output(relax.Tuple([*results, y]) if shown else relax.Tuple(results) if len(results) > 1 else results[0])
        bb.emit_func_output(out)
    return bb.finalize()


def add_up(y, w):
    return op.sum(y, axis=[1])


def multiplied(y, w):
    return op.prod(y, axis=[1])


def product(y, w):
    return op.matmul(y, w)


SPECS = {"main.x": P(None, "tp"), "main.y": P(None, "tp")}
WRITTEN = COLUMNS * 33 * 4
CASES = {
    "a sum takes it along": (read(add_up), [0]),
    "so does a product of all": (read(multiplied), [0]),
    "so does what makes it": (read(product), [0]),
    "not where others read the value": (read(product, add_up), [WRITTEN, 0]),
    "nor where it comes back": (read(product, shown=True), [WRITTEN, WRITTEN]),
}


def masks(plan):
    return [step for step in plan.steps["main"] if isinstance(step, Mask)]


@pytest.mark.parametrize("name", CASES)
def test_clearing_padding_is_foreseen(name):
    mod, written = CASES[name]
    specs = {**SPECS, "main.return*": P(..., others="?")}
    sharded = assert_equivalent(mod, 2, specs, profile=FREE_LINKS)
    assert [mask.bytes for mask in masks(sharded.plan)] == written, sharded.plan.listing("main")
    assert [mask.seconds > 0 for mask in masks(sharded.plan)] == [held > 0 for held in written]
    assert sharded.plan.predicted["main"] == pytest.approx(sum(map(seconds, sharded.plan.steps["main"])))
    there = allocated(sharded)["main"]
    assert 0.85 * there <= sharded.plan.memory["main"].activations <= 1.25 * there
