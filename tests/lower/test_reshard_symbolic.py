"""Conversions between placements of symbolic sizes, run on simulated workers: each worker ends with what `layout.cut` gives it."""

import numpy as np
import pytest
import tvm
from tvm import relax

from spmd import Mesh
from spmd.costs.cost import Cost
from spmd.costs.profile import profile_of
from spmd.lower.reshard import Sent, emit_collective, keep_own, local_dims, mask_padding, pack, unpack
from spmd.placement import layout
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, Signature
from spmd.run.arguments import Handle
from spmd.run.workers import workers
from spmd.testing.oracle import Program, empty_plan
from spmd.transfers.conversion import conversion
from spmd.transfers.local import is_packed, is_unpacked

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
MESHES = [Mesh(tp=4), Mesh(tp=4, hosts=2)]


def cases(mesh):
    for shape, texts in SHARDINGS.items():
        found = [Sharding.parse(text, tuple(s if isinstance(s, int) else -1 for s in shape)).normalized(mesh) for text in texts]
        for source in found:
            for target in found:
                yield shape, source, target
            partial = Sharding((None,) * len(shape), (("tp", "sum"),))
            yield shape, partial, source


def dims_of(shape, n):
    return [{"n": n, "n * 8": n * 8}[s] if isinstance(s, str) else s for s in shape]


def after(emit, x, move, dims, mesh):
    """What a worker has after one move."""
    x = pack(emit, x, move, dims, mesh) if is_packed(move, mesh) else x
    if move.kind == "slice":
        return keep_own(emit, x, move, dims, mesh)
    (x,) = emit_collective(emit, [Sent(x, move, "x")], mesh)
    return unpack(emit, x, move, dims, mesh) if is_unpacked(move, mesh) else x


def program(mesh, numbered):
    """A function for each conversion, which takes the value and something of n rows, and masks what it ends with."""
    bb, signatures = relax.BlockBuilder(), {}
    for name, (shape, source, target) in numbered.items():
        n = tvm.tirx.Var("n", "int64")
        dims = dims_of(shape, n)
        x = relax.Var("x", relax.TensorType(local_dims(dims, source, mesh), "float32"))
        rows = relax.Var("rows", relax.TensorType([n], "float32"))

        with bb.function(name, [x, rows]):
            with bb.dataflow():
                moved = x
                for move in conversion(source, target, mesh):
                    moved = after(bb.emit, moved, move, dims, mesh)
                moved = bb.emit(relax.op.reshape(moved, local_dims(dims, target, mesh)))
                out = bb.emit_output(mask_padding(bb.emit, moved, dims, target, mesh))
            bb.emit_func_output(out)
        leaf = Leaf("x", shape, "float32", source)
        params = (leaf, Leaf("rows", ("n",), "float32", Sharding.replicated(1)))
        signatures[name] = Signature(params, Leaf("out", shape, "float32", target), None)
    return Program(bb.finalize(), empty_plan(mesh, signatures))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_conversions_of_symbolic_sizes(mesh):
    numbered = {f"f{i}": case for i, case in enumerate(cases(mesh)) if i % 6 == MESHES.index(mesh)}  # some of each for each
    cost = Cost(mesh, profile_of("generic"))
    with workers(program(mesh, numbered), target={"kind": "llvm", "opt-level": 0}) as w:
        for name, (shape, source, target) in numbered.items():
            rows = 16 if "n" in shape else 4
            sizes = tuple(dims_of(shape, rows))
            array = np.arange(1, 1 + np.prod(sizes), dtype="float32").reshape(sizes)
            held = [tvm.runtime.tensor(layout.cut(array, source, mesh, rank)) for rank in range(mesh.size)]
            given = Handle(tuple(held), w.backend, w.signatures[name].params[0], sizes)
            out = w[name](given, np.zeros(rows, "float32"), keep=True)
            for rank in range(mesh.size):
                wanted = layout.cut(array, target, mesh, rank)
                np.testing.assert_array_equal(out.objects[rank].numpy(), wanted, err_msg=f"{source} -> {target}, worker {rank}")
            planned = [(s.kind, s.axis, cost.step_bytes(s, sizes, 4)) for s in conversion(source, target, mesh) if s.kind != "slice"]
            assert planned == [(r.kind, r.axis, r.bytes) for r in w.trace()], f"{source} -> {target}"
