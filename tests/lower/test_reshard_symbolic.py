"""Conversions between placements of symbolic sizes, run on simulated workers: each worker ends with what `layout.cut` gives it."""

import numpy as np
import pytest
import tvm
from tvm import relax

from spmd import Mesh, P
from spmd.costs.cost import Cost
from spmd.lower.reshard import Payload, emit_collective, keep_own, local_dims, mask_padding, pack, unpack
from spmd.placement import layout
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, Signature
from spmd.plan.steps import Transfer, moves
from spmd.run.arguments import Handle
from spmd.run.workers import workers
from spmd.testing import assert_equivalent
from spmd.testing.oracle import Program, empty_plan
from spmd.transfers.local import is_packed, is_unpacked
from tests.transfers.ways import BYTES, conversion

SHARDINGS = {
    ("n", 4): ["[-, -]", "[tp:8*, -]", "[tp(1)2:8*, -]", "[tp(2)2:8*, -]", "[tp(2)2+tp(1)2:8*, -]", "[-, tp]", "[tp(2)2:8*, tp(1)2]"],
    ("n * 8", 3): [
        "[-, -]",
        "[tp:8*, -]",
        "[tp:*8, -]",
        "[tp(1)2:*8, -]",
        "[tp(2)2:*8, -]",
        "[tp:*5~2|3, -]",
        "[tp:*4, -]",
        "[-, tp]",
        "[tp(1)2:*8, tp(2)2]",
    ],
    (2, "n * 8"): ["[-, -]", "[-, tp:2|2|4*]", "[-, tp:4|4*]", "[-, tp(1)2:4|4*]", "[-, tp:*4|4|8]", "[tp(1)2, tp(2)2:*8]", "[-, tp:*5|3]"],
}
UNEVEN = {
    ("n", 4): ["[-, -]", "[tp:~1, -]", "[tp(1)2:~1, -]", "[tp(2)2:~1, -]", "[-, tp]", "[tp(2)2:~1, tp(1)2]"],
    ("n", "s"): ["[-, -]", "[tp:~1, -]", "[-, tp:~1]", "[tp(1)2:~1, tp(2)2:~1]", "[tp(2)2:~1, -]"],
    ("n * 8", 3): ["[-, -]", "[tp:~8, -]", "[tp:~2, -]", "[tp:*8, -]", "[-, tp]"],
    ("n * s", 4): ["[-, -]", "[tp:~s, -]", "[tp:~n, -]", "[tp(1)2:~s, tp(2)2]", "[-, tp]"],
    (3, "n * s * 4"): ["[-, -]", "[-, tp:~4.s]", "[-, tp:*4*4.s]", "[-, tp(2)2:*4*4.n]", "[tp, -]"],
}
MESHES = [Mesh(tp=4), Mesh(tp=4, hosts=2)]


def cases(mesh, shardings):
    for shape, texts in shardings.items():
        found = [Sharding.parse(text, tuple(s if isinstance(s, int) else -1 for s in shape)).normalized(mesh) for text in texts]
        for source in found:
            for target in found:
                if conversion(source, target, mesh, planned(shape)) is not None:
                    yield shape, source, target
            partial = Sharding((None,) * len(shape), (("tp", "sum"),))
            yield shape, partial, source


def dims_of(shape, n, s):
    written = {"n": n, "s": s, "n * 8": n * 8, "n * s": n * s, "n * s * 4": n * s * 4}
    return [written[size] if isinstance(size, str) else size for size in shape]


def planned(shape):
    """The sizes by which ways are chosen."""
    return tuple(dims_of(shape, 16 if "n" in shape else 4, 1))


def after(emit, x, move, dims, mesh):
    """What a worker has after one move."""
    x = pack(emit, x, move, dims, mesh) if is_packed(move, mesh) else x
    if move.kind == "slice":
        return keep_own(emit, x, move, dims, mesh)
    (x,) = emit_collective(emit, [Payload(x, move, "x")], mesh)
    return unpack(emit, x, move, dims, mesh) if is_unpacked(move, mesh) else x


def program(mesh, numbered):
    """A function for each conversion, which takes the value and something of n rows and s columns, and masks what it ends with."""
    bb, signatures = relax.BlockBuilder(), {}
    for name, (shape, source, target) in numbered.items():
        n, s = tvm.tirx.Var("n", "int64"), tvm.tirx.Var("s", "int64")
        dims = dims_of(shape, n, s)
        x = relax.Var("x", relax.TensorType(local_dims(dims, source, mesh), "float32"))
        told = relax.Var("told", relax.TensorType([n, s], "float32"))
        way = conversion(source, target, mesh, planned(shape))

        with bb.function(name, [x, told]):
            with bb.dataflow():
                moved = x
                for move in way:
                    moved = after(bb.emit, moved, move, dims, mesh)
                moved = bb.emit(relax.op.reshape(moved, local_dims(dims, target, mesh)))
                out = bb.emit_output(mask_padding(bb.emit, moved, dims, target, mesh))
            bb.emit_func_output(out)
        leaf = Leaf("x", shape, "float32", source)
        params = (leaf, Leaf("told", ("n", "s"), "float32", Sharding.replicated(2)))
        signatures[name] = Signature(params, Leaf("out", shape, "float32", target), None)
    return Program(bb.finalize(), empty_plan(mesh, signatures))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_conversions_of_symbolic_sizes(mesh):
    numbered = {f"f{i}": case for i, case in enumerate(cases(mesh, SHARDINGS)) if i % 6 == MESHES.index(mesh)}  # some of each for each
    check(mesh, {name: case for name, case in numbered.items() if "n" in case[0]}, [(16, 1)])
    check(mesh, {name: case for name, case in numbered.items() if "n" not in case[0]}, [(4, 1)])


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_conversions_by_lengths(mesh):
    """One program, run with 5 rows on 4 workers, with one, and with 8."""
    numbered = {f"f{i}": case for i, case in enumerate(cases(mesh, UNEVEN)) if i % 3 == MESHES.index(mesh)}
    check(mesh, numbered, [(5, 3), (1, 2), (8, 4)])


def check(mesh, numbered, runs):
    """Run the conversions with these rows and columns: numbers, and bytes, are what they should be."""
    with workers(program(mesh, numbered), target={"kind": "llvm", "opt-level": 0}) as w:
        for name, (shape, source, target) in numbered.items():
            for n, s in runs:
                if all(possible(sharding, mesh, n, s) for sharding in (source, target)):
                    run(w, name, shape, source, target, n, s)


def possible(sharding, mesh, n, s):
    """Whether patterns of blocks fall into equal blocks."""
    splits = [d for d in sharding.told({"n": n, "s": s}).dims if d is not None and d.symbolic and d.repeated]
    return all(d.length.number % mesh.axis_size(d.axis) == 0 for d in splits)


def run(w, name, shape, source, target, n, s):
    sizes = tuple(dims_of(shape, n, s))
    mesh, cost = w.mesh, Cost(w.mesh, BYTES, {"n": n, "s": s})
    before, after = (sharding.told({"n": n, "s": s}) for sharding in (source, target))
    array = np.arange(1, 1 + np.prod(sizes), dtype="float32").reshape(sizes)
    held = [tvm.runtime.tensor(layout.cut(array, before, mesh, rank)) for rank in range(mesh.size)]
    given = Handle(tuple(held), w.backend, w.signatures[name].params[0], sizes)
    out = w[name](given, np.zeros((n, s), "float32"), keep=True)
    for rank in range(mesh.size):
        wanted = layout.cut(array, after, mesh, rank)
        np.testing.assert_array_equal(out.objects[rank].numpy(), wanted, err_msg=f"{source} -> {target}, worker {rank}, {n} by {s}")
    steps = conversion(source, target, mesh, planned(shape))
    sent = [(t.kind, t.axis, cost.step_bytes(t, sizes, 4)) for t in steps if t.kind != "slice"]
    assert sent == [(r.kind, r.axis, r.bytes) for r in w.trace()], f"{source} -> {target}, {n} by {s}"


def test_a_size_that_is_there_twice():
    """The length up to which it is padded does not divide the other, for TVM, unless it is written as it was."""
    n = tvm.tirx.Var("n", "int64")
    bb = relax.BlockBuilder()
    with bb.function("main", [x := relax.Var("x", relax.TensorType([n, 6, n], "float64"))]):
        with bb.dataflow():
            result = bb.emit_output(bb.emit(relax.op.negative(x)))
        bb.emit_func_output(result)
    specs = {"main.x": P(None, "tp", None), "main.return": P(None, None, "tp")}
    sharded = assert_equivalent(bb.finalize(), Mesh(tp=3), specs, sizes={"n": 7})
    assert [step.move.kind for step in moves(sharded.plan.steps["main"]) if isinstance(step, Transfer)] == ["all_to_all"]
