"""A kernel that computes more than it gives: what follows a product or a sum takes a part of it, or a part again and again."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

from spmd.schedules import build
from tests.pocl import on_pocl

MADE = {
    "product": ([(3, 4, 8), (8, 6)], lambda x, w: op.matmul(x, w)),
    "turned": ([(3, 4, 8), (6, 8)], lambda x, w: op.matmul(x, op.permute_dims(w))),
    "batched": ([(3, 4, 8), (3, 8, 6)], lambda x, w: op.matmul(x, w)),
    "vector": ([(3, 1, 8), (8, 6)], lambda x, w: op.matmul(x, w)),
    "convolution": ([(3, 6, 8), (12, 1, 3)], lambda x, w: op.nn.conv1d(x, w, groups=6, padding=1)),
    "sum": ([(3, 4, 8), (1,)], lambda x, w: op.sum(op.add(x, w), axis=2, keepdims=True)),
    "norm": ([(3, 4, 8), (8,)], lambda x, w: op.nn.rms_norm(x, w, axes=[-1])),
}
TAKEN = {
    "one row": lambda y: op.nn.silu(op.strided_slice(y, [0], [1], [2])),
    "one column": lambda y: op.nn.silu(op.strided_slice(y, [1], [0], [1])),
    "some rows": lambda y: op.tanh(op.strided_slice(y, [0], [1], [3])),
    "a row again and again": lambda y: op.exp(op.broadcast_to(op.strided_slice(y, [0], [1], [2]), y.ty.shape)),
    "turned": lambda y: op.exp(op.permute_dims(y)),
}


def program(made, taken):
    """What takes a part of what is made, and arguments."""
    shapes, make = MADE[made]
    bb = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(list(shape), "float32")) for i, shape in enumerate(shapes)]
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(bb.normalize(TAKEN[taken](bb.emit(make(*params)))))
        bb.emit_func_output(out)
    rng = np.random.default_rng(0)
    return bb.finalize(), [rng.uniform(-1, 1, shape).astype("float32") for shape in shapes]


def run(executable, arrays, device):
    machine = relax.VirtualMachine(executable, device)
    return np.asarray(machine["main"](*(tvm.runtime.tensor(a, device) for a in arrays)).numpy())


@pytest.mark.parametrize("taken", TAKEN)
@pytest.mark.parametrize("made", MADE)
def test_a_part_is_that_of_the_whole(made, taken):
    mod, arrays = program(made, taken)
    expected = run(tvm.compile(mod, "llvm"), arrays, tvm.cpu())
    np.testing.assert_allclose(run(build(mod), arrays, tvm.cpu()), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("made", MADE)
def test_on_gpus_too(made):
    for taken in TAKEN:
        mod, arrays = program(made, taken)
        expected = run(tvm.compile(mod, "llvm"), arrays, tvm.cpu())
        with on_pocl(mod) as w:
            np.testing.assert_allclose(w["main"](*arrays), expected, rtol=2e-5, atol=2e-6, err_msg=taken)


@I.ir_module
class Roll:
    """A part of a roll of what a transposition gives, chosen by a number that is read."""

    @R.function
    def main(x: R.Tensor((3, 9), "int32"), i: R.Tensor((), "int64")):
        with R.dataflow():
            turned = R.reshape(R.permute_dims(x), R.shape([27]))
            last, first = R.strided_slice(turned, (0,), (22,), (27,)), R.strided_slice(turned, (0,), (0,), (22,))
            parts = R.reshape(R.concat((last, first), axis=0), R.shape([3, 9]))
            part = R.take(parts, i, axis=0, mode="fast")
            R.output(part)
        return part


def test_a_condition_that_reads_memory_says_nothing_of_indices():
    """TVM takes a wrong bound from it."""
    x = np.arange(27, dtype="int32").reshape(3, 9)
    executable = build(Roll)
    for i, expected in enumerate(np.roll(x.T.reshape(-1), 5).reshape(3, 9)):
        np.testing.assert_array_equal(run(executable, [x, np.int64(i)], tvm.cpu()), expected)
