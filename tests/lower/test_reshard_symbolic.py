"""Conversions between placements of symbolic sizes, run on simulated workers: each worker ends with what `layout.cut` gives it."""

import numpy as np
import pytest
import tvm
from tvm import relax

from spmd import Mesh
from spmd.lower.reshard import emit_step, emit_together, local_dims, mask_padding
from spmd.placement import layout
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, Signature
from spmd.run.arguments import Handle
from spmd.run.workers import workers
from spmd.testing.oracle import Program, empty_plan
from tests.transfers.ways import bytes_of, conversion

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


def planned(shape):
    """The sizes by which ways are chosen."""
    return tuple(dims_of(shape, 16 if "n" in shape else 4))


def program(mesh, numbered):
    """A function for each conversion, which takes the value and something of n rows, and masks what it ends with."""
    bb, signatures = relax.BlockBuilder(), {}
    for name, (shape, source, target) in numbered.items():
        n = tvm.tirx.Var("n", "int64")
        dims = dims_of(shape, n)
        x = relax.Var("x", relax.TensorType(local_dims(dims, source, mesh), "float32"))
        rows = relax.Var("rows", relax.TensorType([n], "float32"))
        way = conversion(source, target, mesh, planned(shape))

        def steps(x=x, dims=dims, way=way, bb=bb):
            for step in way:
                x = yield from emit_step(bb.emit, x, step, dims, mesh, "x")
            return x

        with bb.function(name, [x, rows]):
            with bb.dataflow():
                moved = emit_together(bb.emit, [steps()])[0]
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
    with workers(program(mesh, numbered), target={"kind": "llvm", "opt-level": 0}) as w:
        for name, (shape, source, target) in numbered.items():
            rows, sizes = 16 if "n" in shape else 4, planned(shape)
            array = np.arange(1, 1 + np.prod(sizes), dtype="float32").reshape(sizes)
            held = [tvm.runtime.tensor(layout.cut(array, source, mesh, rank)) for rank in range(mesh.size)]
            given = Handle(tuple(held), w.backend, w.signatures[name].params[0], sizes)
            out = w[name](given, np.zeros(rows, "float32"), keep=True)
            for rank in range(mesh.size):
                wanted = layout.cut(array, target, mesh, rank)
                np.testing.assert_array_equal(out.objects[rank].numpy(), wanted, err_msg=f"{source} -> {target}, worker {rank}")
            steps = conversion(source, target, mesh, sizes)
            sent = [(s.kind, s.axis, bytes_of(mesh).step_bytes(s, sizes, 4)) for s in steps if s.kind != "slice"]
            assert sent == [(r.kind, r.axis, r.bytes) for r in w.trace()], f"{source} -> {target}"
