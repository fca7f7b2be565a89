"""Local reorders give what `layout` cuts and joins, in programs that do not grow with the number of segments."""

import random

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

import spmd
from spmd import Mesh, P
from spmd.ir.builder import Builder
from spmd.lower.reorder import shard_order, whole_order
from spmd.lower.reshard import mask_padding
from spmd.placement import layout
from spmd.placement.sharding import Segment, Sharding, Split
from spmd.plan.steps import Transfer
from spmd.schedules import build
from spmd.testing import FREE_LINKS, assert_equivalent
from spmd.transfers.local import brings_zeros
from tests.transfers.ways import conversion

SLOW = spmd.Profile("slow arithmetic", flops=1e5, memory_bandwidth=1e9, link_bandwidth=1e12, link_latency=1e-9)
PATTERNS = [[(8, 1)] * 40, [(3, 1), (5, 1)] * 12, [(6, 2)] * 20, [(5, 2), (3, 1), (4, 4)] * 9, [(7, 1)] * 9 + [(2, 1)] * 11]


def random_segments(numbers):
    """Runs of repeated patterns, and single segments, some with units."""
    found = []
    for _ in range(numbers.randint(1, 3)):
        pattern = [(numbers.randint(1, 9), numbers.choice([1, 1, 2, 3])) for _ in range(numbers.randint(1, 3))]
        found += pattern * numbers.choice([1, 1, 2, 5, 30])
    return found


def cases():
    numbers = random.Random(5)
    for i in range(36):
        segments = PATTERNS[i] if i < len(PATTERNS) else random_segments(numbers)
        workers, dim = numbers.choice([1, 2, 3, 4]), numbers.randint(0, 2)
        shape = [numbers.randint(1, 3) for _ in range(3)]
        shape[dim] = sum(size for size, _ in segments)
        yield Split(("tp",), tuple(Segment(*s) for s in segments)), Mesh(tp=workers), dim, shape


def test_random_segments_are_ordered_as_layout_cuts_and_joins_them():
    """Both ways and masked, one of the other dimensions symbolic in every third program."""
    bb, wanted = Builder(), {}
    for i, (split, mesh, dim, shape) in enumerate(cases()):
        split = split.normalized(mesh)
        dims = list(shape)
        if i % 3 == 0:
            dims[(dim + 1) % 3] = tvm.tirx.Var("n", "int64")
        sharding = Sharding(tuple(split if d == dim else None for d in range(3)))
        whole = np.random.default_rng(i).permutation(np.arange(float(np.prod(shape)))).reshape(shape) + 1
        shards = [layout.cut(whole, sharding, mesh, r) for r in range(mesh.size)]
        joined = np.concatenate(shards, axis=dim)
        assert np.array_equal(layout.join(shards, sharding, mesh, tuple(shape)), whole)
        for kind, given, expected, order in (("cut", whole, joined, shard_order), ("join", joined, whole, whole_order)):
            here = [*dims[:dim], given.shape[dim], *dims[dim + 1 :]]
            x = relax.Var("x", relax.TensorType(here, "float64"))
            with bb.function(f"{kind}{i}", [x]):
                with bb.dataflow():
                    out = bb.emit_output(order(bb.emit, x, dim, here, split, mesh))
                bb.emit_func_output(out)
            wanted[f"{kind}{i}"] = given, expected
    machine = relax.VirtualMachine(build(bb.finalize(), {"kind": "llvm", "opt-level": 0}), tvm.cpu())
    for name, (given, expected) in wanted.items():
        np.testing.assert_array_equal(machine[name](tvm.runtime.tensor(given)).numpy(), expected, err_msg=name)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize(
    "sizes", [(8,) * 24, (3, 5) * 16, (4,) * 10 + (7,) * 3, (6, 2, 2) * 12], ids=["equal", "pairs", "two runs", "fused"]
)
def test_specs_with_many_segments(workers, sizes):
    """In and out, and from one dimension to the other: what is gathered, sliced and sent keeps its numbers."""
    bb = Builder()
    x = relax.Var("x", relax.TensorType([12, sum(sizes)], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(op.sin(bb.emit(op.cumsum(bb.emit(op.tanh(x)), axis=1))))
        bb.emit_func_output(out)
    mod = bb.finalize()
    split = P(None, ("tp", *sizes))
    for specs in ({"main.x": split}, {"main.return": split}, {"main.x": split, "main.return": P("tp", None)}, {"main.lv": split}):
        assert_equivalent(mod, workers, specs)


def folded(rows, columns=8):
    bb, x = Builder(), relax.Var("x", relax.TensorType([rows, columns], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(op.tanh(bb.emit(op.reshape(x, [rows * columns]))))
        bb.emit_func_output(out)
    return bb.finalize()


@pytest.mark.parametrize("columns", [8, 9])
def test_programs_do_not_grow_with_the_rows_that_are_folded(columns):
    sharded = [spmd.shard(folded(rows, columns), 2, {"main.x": P(None, "tp")}, profile=FREE_LINKS) for rows in (32, 512)]
    lines = [s.mod.script().count("\n") for s in sharded]
    assert lines[0] == lines[1] < 30
    assert len(sharded[1].plan.to_json()) < len(sharded[0].plan.to_json()) + 100
    assert_equivalent(folded(32, columns), 2, {"main.x": P(None, "tp")})


def masked(sharding, mesh, shape, kind, dtype):
    """What `mask_padding` makes of shards full of ones, on every worker."""
    bb = Builder()
    local = sharding.local_shape(shape, mesh)
    x = relax.Var("x", relax.TensorType(local, dtype))
    with bb.function("main", [x]):
        out = bb.emit(mask_padding(bb.emit, x, shape, sharding, mesh, kind))
        bb.emit_func_output(out)
    return bb.finalize()["main"]


def test_whole_shards_are_not_masked():
    mesh, sharding = Mesh(tp=2), Sharding.parse("[tp, -]", (4, 3))
    assert "where" not in masked(sharding, mesh, (4, 3), "sum", "float32").script()
    assert "where" in masked(Sharding.parse("[tp, -]", (5, 3)), mesh, (5, 3), "sum", "float32").script()


@pytest.mark.parametrize(
    ("source", "target", "shape", "expected"),
    [
        ("[-, -]", "[tp, -]", (5, 4), [True]),  # cut here: its padding is zeros
        ("[-, -]", "[tp, -]", (4, 4), [True]),  # no padding
        ("[-, -] sum@tp", "[tp, -]", (5, 4), [True]),
        ("[tp, -]", "[-, tp]", (4, 5), [True]),
        ("[-, tp]", "[tp, -]", (5, 4), [True]),
        ("[tp:5|2, -]", "[tp:2|5, -]", (7, 4), [True, True]),  # gathered without padding, then cut
    ],
)
def test_padding_that_a_step_brings_is_zero(source, target, shape, expected):
    mesh = Mesh(tp=2)
    steps = conversion(Sharding.parse(source, shape), Sharding.parse(target, shape), mesh, shape)
    assert [brings_zeros(step, mesh) for step in steps] == expected


def test_padding_that_was_there_before_is_not_said_to_be_zero():
    """Rows over `dp` are padded by who knows what; a cut of the columns changes nothing of that."""
    mesh = Mesh(dp=2, tp=2)
    (step,) = conversion(Sharding.parse("[dp, -]", (5, 4)), Sharding.parse("[dp, tp]", (5, 4)), mesh, (5, 4))
    assert not brings_zeros(step, mesh)


def summed(apply):
    """The sum over rows, of which no two workers have equally many."""
    bb, x = Builder(), relax.Var("x", relax.TensorType([4001, 1], "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(op.sum(apply(bb, x), axis=[0]))
        bb.emit_func_output(out)
    return bb.finalize()


@pytest.mark.parametrize(
    ("apply", "spec", "is_masked"),
    [
        (lambda bb, x: bb.emit(op.sin(bb.emit(op.sin(x)))), P(None, None), False),  # cut by a step, which pads with zeros
        (lambda bb, x: x, P("tp", None), False),  # cut by the workers, which do so too
        (lambda bb, x: bb.emit(op.sin(x)), P("tp", None), False),  # of zero it is zero
        (lambda bb, x: bb.emit(op.cos(x)), P("tp", None), True),
        (lambda bb, x: bb.emit(op.cos(x)), P(None, None), True),
    ],
    ids=["a step", "workers", "sin", "cos", "cos after a step"],
)
def test_padding_is_masked_before_a_sum_unless_it_is_zero(apply, spec, is_masked):
    mod, specs = summed(apply), {"main.x": spec, "main.return": P(None)}
    text = spmd.shard(mod, 2, specs, profile=SLOW).mod.script()
    assert "R.spmd.all_reduce" in text
    assert ("R.where" in text) == is_masked
    assert_equivalent(mod, 2, specs)


@pytest.mark.parametrize("mesh", [Mesh(dp=2, tp=3), Mesh(dp=3, tp=2), Mesh(dp=2, tp=2)], ids=str)
def test_two_orders_of_two_axes(mesh):
    """A permutation, in which every worker sends and receives: what nobody sends to would be zeros."""
    builder = Builder()
    with builder.function("main", [x := relax.Var("x", relax.TensorType([12], "int32"))]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(op.negative(x)))
        builder.emit_func_output(result)
    specs = {"main.x": P(("dp", "tp")), "main.return": P(("tp", "dp"))}
    plan = assert_equivalent(builder.finalize(), mesh, specs).plan
    (sent,) = [step for step in plan.steps["main"] if isinstance(step, Transfer)]
    assert sent.move.kind == "permute"
