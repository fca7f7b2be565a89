"""Strategies over symbolic sizes, in blocks and by patterns, over an axis and parts of it; and what several operators make of them."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from spmd import Mesh
from spmd.testing import prove


@I.ir_module
class Operators:
    """One operator a function; `told` has the sizes themselves."""

    @R.function
    def merge_heads(x: R.Tensor(("n", 8, "s", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        n, s = T.int64(), T.int64()
        with R.dataflow():
            y = R.reshape(x, R.shape([n * 8, s, 3]))
            R.output(y)
        return y

    @R.function
    def part_heads(x: R.Tensor(("n * 8", "s", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        n, s = T.int64(), T.int64()
        with R.dataflow():
            y = R.reshape(x, R.shape([n, 8, s, 3]))
            R.output(y)
        return y

    @R.function
    def merge_groups(x: R.Tensor(("n", 2, 4, 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        n = T.int64()
        with R.dataflow():
            y = R.reshape(x, R.shape([n * 8, 3]))
            R.output(y)
        return y

    @R.function
    def merge_lengths(x: R.Tensor(("n", "s", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        n, s = T.int64(), T.int64()
        with R.dataflow():
            y = R.reshape(x, R.shape([n * s, 3]))
            R.output(y)
        return y

    @R.function
    def merge_under_five(x: R.Tensor((5, "n", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        n = T.int64()
        with R.dataflow():
            y = R.reshape(x, R.shape([5 * n, 3]))
            R.output(y)
        return y

    @R.function
    def regroup(x: R.Tensor(("n * 8", "s", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        n, s = T.int64(), T.int64()
        with R.dataflow():
            y = R.reshape(x, R.shape([n, 8 * s, 3]))
            R.output(y)
        return y

    @R.function
    def product(
        x: R.Tensor(("n * 8", "s", 3), "float64"), y: R.Tensor(("n * 8", 3, "s"), "float64"), told: R.Tensor(("n", "s"), "float64")
    ):
        with R.dataflow():
            z = R.matmul(x, y)
            R.output(z)
        return z

    @R.function
    def total(x: R.Tensor(("n * 6", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.sum(x, axis=[0])
            R.output(y)
        return y

    @R.function
    def normalized(x: R.Tensor(("n * 6", "s"), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.nn.softmax(x, axis=-1)
            R.output(y)
        return y

    @R.function
    def softmax_of_heads(x: R.Tensor(("n", 8, "s", 6), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.nn.softmax(x, axis=-1)
            R.output(y)
        return y

    @R.function
    def parts(x: R.Tensor(("n", "s", 12), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.split(x, 3, axis=2)
            R.output(y)
        return y

    @R.function
    def cut(x: R.Tensor(("n", "s", 12), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.strided_slice(x, axes=[2], begin=[3], end=[9])
            R.output(y)
        return y

    @R.function
    def groups(x: R.Tensor(("n", 4, 1, "s", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        n, s = T.int64(), T.int64()
        with R.dataflow():
            y = R.broadcast_to(x, R.shape([n, 4, 2, s, 3]))
            R.output(y)
        return y

    @R.function
    def repeated(x: R.Tensor(("n", 3), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.repeat(x, 4, axis=0)
            R.output(y)
        return y

    @R.function
    def masked(m: R.Tensor(("n * 8", "s"), "bool"), x: R.Tensor(("n * 8", "s"), "float64"), told: R.Tensor(("n", "s"), "float64")):
        with R.dataflow():
            y = R.where(m, x, R.const(0.5, "float64"))
            R.output(y)
        return y


@pytest.mark.parametrize(("mesh", "sizes"), [(Mesh(tp=2), {"n": 5, "s": 7}), (Mesh(tp=3), {"n": 1, "s": 2})], ids=str)
def test_strategies_over_sizes_that_nobody_called_divisible_are_right(mesh, sizes):
    verdicts = prove(Operators, mesh, sizes=sizes)
    wrong = [v for v in verdicts if v.status != "right"]
    assert not wrong, "\n".join(map(str, wrong))
    assert {"[tp:~1, -, -]", "[tp:~8, -]", "[tp:~s, -]"} <= {text for v in verdicts for text in (*v.inputs, *v.outputs)}


@pytest.mark.parametrize("mesh", [Mesh(tp=2), Mesh(tp=4)], ids=str)
def test_strategies_over_symbolic_sizes_are_right(mesh):
    verdicts = prove(Operators, mesh, sizes={"n": 4, "s": 8}, divisible={"n": 4, "s": 4})
    wrong = [v for v in verdicts if v.status != "right"]
    assert not wrong, "\n".join(map(str, wrong))
    texts = {text for v in verdicts for text in (*v.inputs, *v.outputs)}
    assert any(":*8" in text for text in texts)
    assert any("4*" in text for text in texts)
    assert "[tp:*4*s, -]" in texts
    assert mesh.size == 2 or any("tp(2)2" in text for text in texts)
