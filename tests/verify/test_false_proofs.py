"""Wrong programs that are nearly right: of another form, on one worker alone, called once more, by another constant."""

from dataclasses import replace

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Sharding, ShardingError


@I.ir_module
class Both:
    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        a = R.add(x, x)
        b = R.multiply(x, x)
        both = (a, b)
        return both


@I.ir_module
class First:
    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        a = R.add(x, x)
        return a


@I.ir_module
class Three:
    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        a = R.add(x, x)
        b = R.multiply(x, x)
        three = (a, b, a)
        return three


@I.ir_module
class Given:
    @R.function
    def main(x: R.Tensor((4, 6), "float32"), y: R.Tensor((4, 6), "float32")):
        a = R.add(x, y)
        return a


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (Both, First, "the result of 'main' on worker 0 is a tensor, and not a tuple of 2"),
        (First, Both, "the result of 'main' on worker 0 is a tuple of 2, and not a tensor"),
        (Both, Three, "the result of 'main' on worker 0 is a tuple of 3, and not a tuple of 2"),
        (First, Given, "verify, 'main': 'main' takes 2 arguments, and is given 1"),
    ],
)
def test_another_form(one, other, text):
    with pytest.raises(ShardingError, match=text):
        spmd.verify(one, other, mesh=2)


def test_a_plan_without_a_function():
    @I.ir_module
    class Functions:
        @R.function
        def f(x: R.Tensor((4, 6), "float32")):
            a = R.add(x, x)
            return a

        @R.function
        def g(x: R.Tensor((4, 6), "float32")):
            a = R.multiply(x, x)
            return a

    sharded = spmd.shard(Functions, 2, {"f.x": spmd.P("tp", None)})
    lacking = replace(sharded.plan, functions={"f": sharded.plan.functions["f"]})
    with pytest.raises(ShardingError, match="the plan has no function 'g'"):
        spmd.verify(Functions, replace(sharded, plan=lacking))


@I.ir_module
class Rows:
    @R.function
    def main(table: R.Tensor((64, 4), "float32"), i: R.Tensor((3,), "int64")):
        found = R.take(table, i, axis=0, mode="clip")
        return found


@I.ir_module
class RowsOfSeven:
    """What the last of eight workers has is lost."""

    @R.function
    def main(table: R.Tensor((8, 4), "float32"), i: R.Tensor((3,), "int64")):
        worker = R.spmd.axis_index(axis="tp", workers=8)
        own = R.subtract(i, R.multiply(worker, R.const(8, "int64")))
        inside = R.logical_and(R.greater_equal(own, R.const(0, "int64")), R.less(own, R.const(8, "int64")))
        row = R.take(table, R.where(inside, own, R.const(0, "int64")), axis=0, mode="clip")
        held = R.logical_and(R.reshape(inside, R.shape([3, 1])), R.less(worker, R.const(7, "int64")))
        part = R.where(held, row, R.const(0.0, "float32"))
        found = R.spmd.all_reduce(part, axis="tp", kind="sum", value="part", workers=8)
        return found


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_rows_of_one_worker(seed):
    """Of three rows and 64 the runs together see some of each worker, whatever the seed."""
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(Rows, RowsOfSeven, mesh=8, inputs={"main.table": Sharding.parse("[tp, -]", (64, 4))}, seed=seed)


def test_a_function_that_is_called_again():
    """A function that nobody calls pure may give something else."""

    @I.ir_module
    class Twice:
        @R.function(pure=False)
        def main(x: R.Tensor((4, 6), "float32")):
            a = R.call_packed("my.numbers", ty_args=(R.Tensor((4, 6), "float32"),))
            b = R.call_packed("my.numbers", ty_args=(R.Tensor((4, 6), "float32"),))
            c = R.add(R.add(a, b), x)
            return c

    @I.ir_module
    class Once:
        @R.function(pure=False)
        def main(x: R.Tensor((4, 6), "float32")):
            a = R.call_packed("my.numbers", ty_args=(R.Tensor((4, 6), "float32"),))
            c = R.add(R.add(a, a), x)
            return c

    assert spmd.verify(Twice, Twice, mesh=2)
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(Twice, Once, mesh=2)


def test_large_and_small_constants():
    """The numbers are modulo a prime, and constants beyond it are no others."""

    @I.ir_module
    class Large:
        @R.function
        def main(x: R.Tensor((4, 6), "float32")):
            y = R.multiply(x, R.const(2147483648.0, "float32"))
            return y

    @I.ir_module
    class One:
        @R.function
        def main(x: R.Tensor((4, 6), "float32")):
            y = R.multiply(x, R.const(1.0, "float32"))
            return y

    assert spmd.verify(Large, Large, mesh=2)
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(Large, One, mesh=2)


@I.ir_module
class Clipped:
    @R.function
    def main(x: R.Tensor((8, 6), "float32")):
        norm = R.sum(R.multiply(x, x))
        scale = R.minimum(R.divide(R.const(1.0, "float32"), norm), R.const(1.0, "float32"))
        y = R.multiply(x, scale)
        return y


@I.ir_module
class ClippedByPart:
    """Each worker by the norm of its own rows."""

    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        norm = R.sum(R.multiply(x, x))
        scale = R.minimum(R.divide(R.const(1.0, "float32"), norm), R.const(1.0, "float32"))
        y = R.multiply(x, scale)
        return y


@pytest.mark.parametrize("seed", range(0, 160, 16))
def test_one_number_that_decides(seed):
    """The least of one and a norm is one in half of all runs, and says nothing of the norm then."""
    rows = Sharding.parse("[tp, -]", (8, 6))
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(Clipped, ClippedByPart, mesh=2, inputs={"main.x": rows}, outputs={"main": rows}, seed=seed)


@I.ir_module
class TwoBatches:
    @R.function
    def main(x: R.Tensor((4, 6), "float32"), z: R.Tensor((4, 6), "float32")):
        first = R.sum(x, axis=[0])
        second = R.sum(z, axis=[0])
        y = R.add(first, second)
        return y


@I.ir_module
class ReducedEarly:
    """The sum over workers comes before the second batch is done."""

    @R.function
    def main(x: R.Tensor((2, 6), "float32"), z: R.Tensor((2, 6), "float32")):
        first = R.sum(x, axis=[0])
        reduced = R.spmd.all_reduce(first, axis="dp", kind="sum", value="first", workers=2)
        second = R.sum(z, axis=[0])
        y = R.add(reduced, second)
        return y


def test_a_reduction_before_the_second_batch():
    rows = Sharding.parse("[dp, -]", (4, 6))
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(TwoBatches, ReducedEarly, mesh=spmd.Mesh(dp=2), inputs={"main.x": rows, "main.z": rows})
