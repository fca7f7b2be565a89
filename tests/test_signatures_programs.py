"""What functions take and give: nested tuples, numbers and shapes, parameters returned, values returned twice, every dtype."""

import ml_dtypes
import numpy as np
import pytest
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import P
from spmd.testing import assert_equivalent, simulate


@I.ir_module
class Odd:
    @R.function
    def branches(c: R.Tensor((), "bool"), x: R.Tensor((4, 6), "float32"), w: R.Tensor((6, 8), "float32")):
        y = R.matmul(x, w)
        if c:
            u = R.exp(y)
            z = R.add(u, y)
        else:
            z = R.multiply(y, y)
        return R.sum(z, axis=[1])

    @R.function
    def nested(t: R.Tuple(R.Tensor((4, 6), "float32"), R.Tuple(R.Tensor((6,), "float32"), R.Tensor((6, 8), "float32")))):
        x = t[0]
        inner = t[1]
        y = R.add(x, inner[0])
        z = R.matmul(y, inner[1])
        return (z, (y, (x, inner)))

    @R.function
    def given_back(x: R.Tensor((4, 6), "float32"), unused: R.Tensor((3, 3), "float32")):
        return x

    @R.function
    def twice(x: R.Tensor((4, 6), "float32")):
        with R.dataflow():
            y = R.exp(x)
            R.output(y)
        return (y, y, x, x)

    @R.function
    def cast(x: R.Tensor(("n", 6), "float32")):
        n = T.int64()
        with R.dataflow():
            y = R.exp(x)
            z = R.match_cast(y, R.Tensor((n, 6), "float32"))
            u = R.negative(z)
            R.output(u)
        return u

    @R.function
    def constants(x: R.Tensor((4, 6), "float32")):
        with R.dataflow():
            y = R.add(x, R.const(np.arange(24, dtype="float32").reshape(4, 6)))
            z = R.matmul(y, R.const(np.arange(30, dtype="float32").reshape(6, 5)))
            R.output(z)
        return z

    @R.function
    def rank_zero(x: R.Tensor((), "float32"), y: R.Tensor((5,), "float32")):
        with R.dataflow():
            z = R.multiply(R.exp(x), y)
            s = R.sum(z)
            R.output(z, s)
        return (z, s)

    @R.function
    def nothing(x: R.Tensor((0, 4), "float32"), w: R.Tensor((4, 6), "float32")):
        with R.dataflow():
            y = R.exp(R.matmul(x, w))
            s = R.sum(y, axis=[0])
            R.output(y, s)
        return (y, s)


@pytest.mark.parametrize("workers", [2, 3])
def test_odd_signatures(workers):
    sharded = assert_equivalent(Odd, workers)
    assert not sharded.plan.notes


@I.ir_module
class Numbers:
    @R.function
    def main(x: R.Tensor((4, 6), "float32"), n: R.Prim("int64"), s: R.Shape(["m", "k"])):
        m = T.int64()
        k = T.int64()
        with R.dataflow():
            y = R.exp(x)
            z = R.broadcast_to(R.sum(y), R.shape([m, k]))
            R.output(z)
        return z

    @R.function
    def shape_of(x: R.Tensor(("m", 6), "float32")):
        m = T.int64()
        return R.shape([m, 6])

    @R.function
    def no_tensors(n: R.Prim("int64")):
        return n


def test_shapes_and_numbers_pass():
    x = np.ones((4, 6), "float32")

    def run(w):
        return w["main"](x, 5, (2, 3)), w["shape_of"](np.ones((7, 6), "float32")), w["no_tensors"](9)

    sharded = assert_equivalent(Numbers, 2, run=run)
    assert simulate(sharded, run)[1:] == ((7, 6), 9)


DTYPES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32", "float64"]
"""What TVM adds and multiplies on a CPU."""
SMALL = ["float8_e4m3fn", "float8_e5m2"]


def arithmetic(dtype):
    """X + x by columns, x @ w by rows (a sum over the workers), a sum over all."""
    builder = relax.BlockBuilder()
    x, w = relax.Var("x", relax.TensorType((4, 6), dtype)), relax.Var("w", relax.TensorType((6, 5), dtype))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            y = builder.emit(relax.op.add(x, x), "y")
            z = builder.emit(relax.op.matmul(y, w), "z")
            s = builder.emit(relax.op.sum(z, axis=[1]), "s")
            out = builder.emit_output(relax.Tuple([y, z, s]))
        builder.emit_func_output(out)
    return builder.finalize()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_added_multiplied_and_summed_over_workers(dtype):
    sharded = assert_equivalent(arithmetic(dtype), 2, {"main.x": P(None, "tp"), "main.w": P("tp", None), "main.z": P(None, None)})
    assert {"all_reduce", "all_gather"} <= {c.kind for c in sharded.plan.collectives}


def casts(dtype):
    """To and from a dtype that is only stored, gathered in between."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 6), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.astype(x, dtype), "y")
            z = builder.emit(relax.op.astype(y, "float32"), "z")
            out = builder.emit_output(z)
        builder.emit_func_output(out)
    return builder.finalize()


@pytest.mark.parametrize("dtype", [*SMALL, "bool"])
def test_dtypes_that_are_only_stored_are_gathered(dtype):
    sharded = assert_equivalent(casts(dtype), 2, {"main.x": P("tp", None), "main.y": P("tp", None), "main.z": P(None, None)})
    assert np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize == 1
    assert {(c.kind, c.axis) for c in sharded.plan.collectives} == {("all_gather", "tp")}


def test_a_name_is_shared_by_several_functions():
    @I.ir_module
    class Same:
        @R.function
        def a(x: R.Tensor((4, 6), "float32"), w: R.Tensor((6, 8), "float32")):
            R.func_attr({"num_input": 1})
            y = R.matmul(x, w)
            return y

        @R.function
        def b(x: R.Tensor((2, 6), "float32"), w: R.Tensor((6, 4), "float32")):
            R.func_attr({"num_input": 1})
            y = R.matmul(x, w)
            return y

    sharded = assert_equivalent(Same, 2)
    assert len(sharded.plan.params) == 2, "weights of one name and two shapes are two weights"
    assert spmd.shard(Same, 2).plan.to_json() == spmd.shard(Same, 2).plan.to_json()


@I.ir_module
class Mixed:
    @R.function
    def main(x: R.Tensor(("m", 6), "float32"), n: R.Prim("int64")):
        m = T.int64()
        s = R.shape([m, 3])
        y = R.exp(x)
        t = (y, s, n)
        return (t[0], (y, s), t[2])


def test_shapes_and_numbers_inside_tuples():
    x = np.ones((4, 6), "float32")
    assert_equivalent(Mixed, 2, run=lambda w: w["main"](x, 5))
