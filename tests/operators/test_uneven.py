"""Operators over sizes that nobody called divisible: what splits them is right, and what hangs on the size does not."""

from collections import Counter

from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from spmd import Mesh
from spmd.testing import prove


@I.ir_module
class Operators:
    """One operator a function; `told` has the sizes themselves."""

    @R.function
    def mean(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.mean(x, axis=[0])
            R.output(y)
        return y

    @R.function
    def variance(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.variance(x, axis=[0])
            R.output(y)
        return y

    @R.function
    def argmax(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.argmax(x, axis=0)
            R.output(y)
        return y

    @R.function
    def argmaxr(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.argmax(x, axis=1)
            R.output(y)
        return y

    @R.function
    def prod(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.prod(x, axis=[0])
            R.output(y)
        return y

    @R.function
    def cumsum(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.cumsum(x, axis=0)
            R.output(y)
        return y

    @R.function
    def take(x: R.Tensor((7, 4), "float64"), i: R.Tensor(("n",), "int64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.take(x, i, axis=0, mode="clip")
            R.output(y)
        return y

    @R.function
    def takefrom(x: R.Tensor(("n", 4), "float64"), i: R.Tensor((3,), "int64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.take(x, i, axis=0, mode="clip")
            R.output(y)
        return y

    @R.function
    def concat(x: R.Tensor(("n", 4), "float64"), z: R.Tensor(("n", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.concat((x, z), axis=1)
            R.output(y)
        return y

    @R.function
    def concat0(x: R.Tensor(("n", 4), "float64"), z: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.concat((x, z), axis=0)
            R.output(y)
        return y

    @R.function
    def flip(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.flip(x, axis=0)
            R.output(y)
        return y

    @R.function
    def tile(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.tile(x, (2, 1))
            R.output(y)
        return y

    @R.function
    def sort(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.sort(x, axis=0)
            R.output(y)
        return y

    @R.function
    def sortr(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.sort(x, axis=1)
            R.output(y)
        return y

    @R.function
    def ce(x: R.Tensor(("n", 4), "float64"), t: R.Tensor(("n",), "int64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.nn.nll_loss(x, t, reduction="mean")
            R.output(y)
        return y

    @R.function
    def ces(x: R.Tensor(("n", 4), "float64"), t: R.Tensor(("n",), "int64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.nn.nll_loss(x, t, reduction="sum")
            R.output(y)
        return y

    @R.function
    def layer_norm(
        x: R.Tensor(("n", 4), "float32"), g: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32"), told: R.Tensor(("n", "s"), "float64")
    ):
        with R.dataflow():
            y = R.nn.layer_norm(x, g, b, axes=[-1])
            R.output(y)
        return y

    @R.function
    def group(
        x: R.Tensor(("n", 4, 6), "float32"),
        g: R.Tensor((4,), "float32"),
        b: R.Tensor((4,), "float32"),
        told: R.Tensor(("n", "s"), "float64"),
    ):
        with R.dataflow():
            y = R.nn.group_norm(x, g, b, num_groups=2, channel_axis=1, axes=[2])
            R.output(y)
        return y

    @R.function
    def bn(
        x: R.Tensor(("n", 4, 6), "float64"),
        g: R.Tensor((4,), "float64"),
        b: R.Tensor((4,), "float64"),
        m: R.Tensor((4,), "float64"),
        v: R.Tensor((4,), "float64"),
        told: R.Tensor(("n", "s"), "float64"),
    ):
        with R.dataflow():
            y = R.nn.batch_norm(x, g, b, m, v, axis=1, training=True)
            R.output(y)
        return y

    @R.function
    def conv(x: R.Tensor(("n", 4, 6, 6), "float64"), w: R.Tensor((5, 4, 3, 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.nn.conv2d(x, w, padding=1)
            R.output(y)
        return y

    @R.function
    def attn(
        q: R.Tensor(("n", "s", 2, 4), "float64"),
        k: R.Tensor(("n", "s", 2, 4), "float64"),
        v: R.Tensor(("n", "s", 2, 4), "float64"),
        told: R.Tensor(("n", "s"), "float64"),
    ):
        with R.dataflow():
            y = R.nn.attention(q, k, v)
            R.output(y)
        return y

    @R.function
    def onehot(i: R.Tensor(("n",), "int64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.one_hot(i, R.prim_value(1), R.prim_value(0), 5, -1)
            R.output(y)
        return y

    @R.function
    def scatter(
        x: R.Tensor(("n", 4), "float64"),
        i: R.Tensor(("n", 2), "int64"),
        u: R.Tensor(("n", 2), "float64"),
        told: R.Tensor(("n", "s"), "float64"),
    ):
        with R.dataflow():
            y = R.scatter_elements(x, i, u, axis=1)
            R.output(y)
        return y

    @R.function
    def gather(x: R.Tensor(("n", 4), "float64"), i: R.Tensor(("n", 2), "int64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.gather_elements(x, i, axis=1)
            R.output(y)
        return y

    @R.function
    def roll(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.strided_slice(x, axes=[0], begin=[0], end=[1])
            R.output(y)
        return y

    @R.function
    def topk(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.topk(x, k=2, axis=1)
            R.output(y)
        return y

    @R.function
    def tril(x: R.Tensor(("n", "s"), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.tril(x, 0)
            R.output(y)
        return y

    @R.function
    def einsum(x: R.Tensor(("n", "s"), "float64"), y: R.Tensor(("n", "s"), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            z = R.einsum((x, y), subscripts="ns,ns->s")
            R.output(z)
        return z

    @R.function
    def outer(x: R.Tensor(("n",), "float64"), y: R.Tensor(("n",), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            z = R.outer(x, y)
            R.output(z)
        return z

    @R.function
    def zeros(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            z = R.zeros_like(x)
            R.output(z)
        return z

    @R.function
    def onesf(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        n = T.int64()
        with R.dataflow():
            z = R.ones(R.shape([n, 3]), "float64")
            R.output(z)
        return z

    @R.function
    def pad(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            z = R.nn.pad(x, (0, 0, 1, 1))
            R.output(z)
        return z

    @R.function
    def pad0(x: R.Tensor(("n", 4), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            z = R.nn.pad(x, (1, 1, 0, 0))
            R.output(z)
        return z


WHOLE = {"argmax", "cumsum", "flip", "mean", "roll", "softmax", "sort", "takefrom", "variance"}
"""What sees all rows at once, or counts them."""


def test_uneven_strategies_of_operators_are_right():
    verdicts = prove(Operators, Mesh(tp=2), sizes={"n": 5, "s": 3})
    wrong = [v for v in verdicts if v.status != "right"]
    assert not wrong, "\n".join(map(str, wrong))
    uneven = Counter(v.function for v in verdicts if any("~" in text for text in (*v.inputs, *v.outputs)))
    assert not WHOLE & set(uneven)
    assert len(uneven) > 15
