"""What is too large is proven at smaller sizes, and found wrong at them; what cannot be made smaller is said."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import P, Sharding, ShardingError
from spmd.testing.equivalence import FREE_LINKS

pytestmark = pytest.mark.usefixtures("by_numbers")


@I.ir_module
class Block:
    """Fused gate and up, heads, a mean that is divided by its size: shapes of a model of 405 billion weights."""

    @R.function
    def main(
        x: R.Tensor((1, 2048, 16384), "float32"),
        gate_up: R.Tensor((16384, 106496), "float32"),
        down: R.Tensor((53248, 16384), "float32"),
        b: R.Tensor((16384,), "float32"),
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            h = R.matmul(x, gate_up)
            parts = R.split(h, 2, axis=2)
            gate = parts[0]
            up = parts[1]
            act = R.nn.silu(gate)
            both = R.multiply(act, up)
            y = R.matmul(both, down)
            z = R.add(y, b)
            m = R.mean(z, axis=[2], keepdims=True)
            c = R.subtract(z, m)
            heads = R.reshape(c, R.shape([1, 2048, 128, 128]))
            first = R.strided_slice(heads, [1], [0], [2047])
            R.output(first)
        return first


FUSED = {"gate_up": P(None, ("tp", 53248, 53248)), "down": P("tp", None)}


def test_a_large_block_is_proven():
    sharded = spmd.shard(Block, 8, FUSED, profile=FREE_LINKS, memory=float("inf"))
    proof = spmd.verify(Block, sharded)
    assert proof
    assert proof.smaller


@I.ir_module
class Product:
    @R.function
    def main(x: R.Tensor((4096, 8192), "float32"), w: R.Tensor((8192, 6144), "float32"), b: R.Tensor((6144,), "float32")):
        h = R.matmul(x, w)
        y = R.add(h, b)
        return y


@I.ir_module
class BiasTwice:
    @R.function
    def main(x: R.Tensor((4096, 1024), "float32"), w: R.Tensor((1024, 6144), "float32"), b: R.Tensor((6144,), "float32")):
        h = R.matmul(x, w)
        y = R.add(h, b)
        s = R.ccl.allreduce(y, "sum", True)
        return s


ROWS = {"main.x": Sharding.parse("[-, tp]", (4096, 8192)), "main.w": Sharding.parse("[tp, -]", (8192, 6144))}


def test_a_large_program_that_is_wrong_is_named():
    with pytest.raises(ShardingError, match=r"numbers wrong.*The first value that is none of the module: add 'y' of 'main', on worker 0"):
        spmd.verify(Product, BiasTwice, mesh=8, inputs=ROWS)


def test_what_is_too_large_is_undecided():
    @I.ir_module
    class Branch:
        @R.function
        def main(c: R.Tensor((), "bool"), x: R.Tensor((65536, 65536), "float32")):
            if c:  # noqa: SIM108
                y = R.matmul(x, x)
            else:
                y = R.add(x, x)
            return y

    proof = spmd.verify(Branch, Branch, mesh=2)
    assert not proof
    assert proof.undecided == ("all of it: it is too large to be evaluated, and 'y' is no call",)


@I.ir_module
class AllButOne:
    """Rows of a product but for the last one, with a bias."""

    @R.function
    def main(x: R.Tensor((2048, 8192), "float32"), w: R.Tensor((8192, 6144), "float32"), b: R.Tensor((6144,), "float32")):
        h = R.matmul(x, w)
        y = R.add(h, b)
        z = R.strided_slice(y, [0], [0], [2047])
        return z


@I.ir_module
class LastWorkerSubtracts:
    """Rows over 8 workers, of which the last one subtracts the bias."""

    @R.function
    def main(x: R.Tensor((256, 8192), "float32"), w: R.Tensor((8192, 6144), "float32"), b: R.Tensor((6144,), "float32")):
        h = R.matmul(x, w)
        index = R.spmd.axis_index(axis="tp", workers=8)
        y = R.where(R.equal(index, R.const(7, "int64")), R.subtract(h, b), R.add(h, b))
        whole = R.spmd.all_gather(y, axis="tp", dim=0, value="y", workers=8)
        z = R.strided_slice(whole, [0], [0], [2047])
        return z


def test_what_is_left_out_stays_as_little():
    """At smaller sizes, too, there are rows of the last worker among those that are kept."""
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(AllButOne, LastWorkerSubtracts, mesh=8, inputs={"main.x": Sharding.parse("[tp, -]", (2048, 8192))})


@I.ir_module
class Unmasked:
    @R.function
    def main(x: R.Tensor((4096, 8192), "float32"), w: R.Tensor((8192, 6144), "float32")):
        h = R.matmul(x, w)
        return h


@I.ir_module
class Masked:
    """Some rows become nothing, by a number that no dimension has."""

    @R.function
    def main(x: R.Tensor((4096, 8192), "float32"), w: R.Tensor((8192, 6144), "float32")):
        h = R.matmul(x, w)
        places = R.cumsum(R.ones((4096, 1), "int64"), axis=0)
        kept = R.less(places, R.const(2000, "int64"))
        y = R.where(kept, h, R.const(0.0, "float32"))
        return y


@I.ir_module(s_tir=True)
class MaskedByAKernel:
    @T.prim_func(private=True, s_tir=True)
    def mask(h: T.Buffer((4096, 6144), "float32"), y: T.Buffer((4096, 6144), "float32")):
        for i, j in T.grid(4096, 6144):
            with T.sblock("mask"):
                vi, vj = T.axis.remap("SS", [i, j])
                y[vi, vj] = T.if_then_else(vi < 2000, h[vi, vj], T.float32(0))

    @R.function
    def main(x: R.Tensor((4096, 8192), "float32"), w: R.Tensor((8192, 6144), "float32")):
        cls = MaskedByAKernel
        h = R.matmul(x, w)
        y = R.call_tir(cls.mask, (h,), out_ty=R.Tensor((4096, 6144), "float32"))
        return y


@pytest.mark.parametrize(("masked", "text"), [(Masked, "a constant has integers"), (MaskedByAKernel, "a kernel computes with 2000")])
def test_places_are_no_smaller_ones(masked, text):
    """A mask from row 2000 on masks nothing at smaller sizes."""
    proof = spmd.verify(Unmasked, masked, mesh=8)
    assert not proof
    assert text in proof.undecided[0]
    assert "may be" in proof.undecided[0]
