"""What is right for numbers, and not for infinities and what is no number."""

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd  # noqa: F401

ROWS, COLUMNS = 8, 4
LEAST = relax.const(float("-inf"), "float32")


def looked_up(operator):
    """Rows of a table, `operator` with z, and their sums."""
    builder = relax.BlockBuilder()
    table = relax.Var("table", relax.TensorType((ROWS, COLUMNS), "float32"))
    rows = relax.Var("rows", relax.TensorType((3,), "int64"))
    z = relax.Var("z", relax.TensorType((3, COLUMNS), "float32"))
    with builder.function("main", [table, rows, z]):
        found = builder.emit(relax.op.take(table, rows, 0, mode="clip"))
        builder.emit_func_output(builder.emit(relax.op.sum(builder.emit(operator(found, z)), [1])))
    return builder.get()


def summed_late(operator):
    """The same for two workers, each with half of the rows: where it has none it takes zeros, and the sum over workers comes last."""
    builder, held = relax.BlockBuilder(), ROWS // 2
    table = relax.Var("table", relax.TensorType((held, COLUMNS), "float32"))
    rows = relax.Var("rows", relax.TensorType((3,), "int64"))
    z = relax.Var("z", relax.TensorType((3, COLUMNS), "float32"))
    with builder.function("main", [table, rows, z]):
        inside = relax.op.maximum(relax.op.minimum(rows, relax.const(ROWS - 1, "int64")), relax.const(0, "int64"))
        first = relax.op.multiply(_of_dialect("axis_index", []), relax.const(held, "int64"))
        own = builder.emit(relax.op.subtract(inside, first))
        is_held = relax.op.logical_and(relax.op.greater_equal(own, relax.const(0, "int64")), relax.op.less(own, relax.const(held, "int64")))
        is_held = builder.emit(is_held)
        found = relax.op.take(table, relax.op.where(is_held, own, relax.const(0, "int64")), 0, mode="clip")
        zeroed = builder.emit(relax.op.where(relax.op.reshape(is_held, (3, 1)), found, relax.const(0.0, "float32")), "zeroed")
        part = builder.emit(relax.op.sum(builder.emit(operator(zeroed, z)), [1]))
        builder.emit_func_output(builder.emit(_of_dialect("all_reduce", [part], kind="sum", value="sum"), "total"))
    return builder.get()


def _of_dialect(name, args, **attrs):
    return relax.Call(tvm.ir.Op.get(f"relax.spmd.{name}"), args, tvm.ir.make_node("ir.DictAttrs", axis="tp", workers=2, **attrs))


@I.ir_module
class Smallest:
    @R.function
    def main(x: R.Tensor((3, 5), "float32")):
        with R.dataflow():
            out = R.argmin(x)
            R.output(out)
        return out


@I.ir_module
class SmallestOfEach:
    """On three workers: the place is that of the worker whose smallest element is that of all. The unsharded kernel goes another way
    where it meets what is no number.
    """

    @R.function
    def main(x: R.Tensor((1, 5), "float32")):
        with R.dataflow():
            at = R.argmin(x, axis=None, keepdims=False)
            least = R.min(x, axis=None, keepdims=False)
            of_all = R.spmd.all_reduce(least, axis="tp", kind="min", value="gv", workers=3)
            is_more = R.greater(least, of_all)
            row = R.spmd.axis_index(axis="tp", workers=3)
            own = R.add(R.multiply(row, R.const(5, "int64")), at)
            place = R.where(is_more, R.const(9223372036854775807, "int64"), own)
            out = R.spmd.all_reduce(place, axis="tp", kind="min", value="gv", workers=3)
            R.output(out)
        return out


@I.ir_module
class Largest:
    @R.function
    def main(x: R.Tensor((3, 5), "float32")):
        with R.dataflow():
            out = R.argmax(x)
            R.output(out)
        return out


@I.ir_module
class LargestOfEach:
    """On two workers, of which the second one has a column of padding."""

    @R.function
    def main(x: R.Tensor((3, 3), "float32")):
        with R.dataflow():
            column = R.spmd.axis_index(axis="tp", workers=2)
            is_held = R.less(R.add(R.arange(0, 3, 1, "int64"), R.multiply(column, R.const(3, "int64"))), R.const(5, "int64"))
            masked = R.where(R.reshape(is_held, R.shape([1, 3])), x, LEAST)
            at = R.argmax(masked, axis=None, keepdims=False)
            most = R.max(masked, axis=None, keepdims=False)
            of_all = R.spmd.all_reduce(most, axis="tp", kind="max", value="gv", workers=2)
            is_less = R.less(most, of_all)
            inside = R.add(R.floor_mod(at, R.const(3, "int64")), R.multiply(column, R.const(3, "int64")))
            own = R.add(R.multiply(R.floor_divide(at, R.const(3, "int64")), R.const(5, "int64")), inside)
            place = R.where(is_less, R.const(9223372036854775807, "int64"), own)
            out = R.spmd.all_reduce(place, axis="tp", kind="min", value="gv", workers=2)
            R.output(out)
        return out
