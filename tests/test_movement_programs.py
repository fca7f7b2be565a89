"""Whole programs whose elements move along a split dimension: each is silently wrong in one of the systems before this one."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd.testing import assert_equivalent
from tests.programs import BYTES_COUNT


@I.ir_module
class MOVES:
    @R.function
    def main(x: R.Tensor((8, 10), "float64"), y: R.Tensor((3, 10), "float64")):
        with R.dataflow():
            a = R.strided_slice(x, axes=[0], begin=[1], end=[7])
            b = R.split(a, [2], axis=0)
            c = R.concat((b[1], y, b[0]), axis=0)
            d = R.flip(c, axis=0)
            e = R.nn.pad(d, pad_width=[1, 2, 0, 0])
            f = R.tril(e, -1)
            g = R.tile(f, [2, 1])
            R.output(g)
        return g


@I.ir_module
class ALONE:
    @R.function
    def flip(x: R.Tensor((9, 10), "float64")):
        with R.dataflow():
            y = R.flip(x, axis=0)
            R.output(y)
        return y

    @R.function
    def tril(x: R.Tensor((9, 10), "float64")):
        with R.dataflow():
            y = R.tril(x, 1)
            R.output(y)
        return y

    @R.function
    def slice(x: R.Tensor((9, 10), "float64")):
        with R.dataflow():
            y = R.strided_slice(x, axes=[0], begin=[8], end=[0], strides=[-3])
            R.output(y)
        return y


@I.ir_module
class RESHAPES:
    @R.function
    def main(x: R.Tensor((12, 8), "float64"), y: R.Tensor((5, 3), "float64"), z: R.Tensor((3, 4, 5), "float64")):
        with R.dataflow():
            a = R.reshape(x, (16, 6))
            b = R.reshape(y, (15,))
            c = R.reshape(z, (3, 20))
            R.output(a, b, c)
        return a, b, c


@I.ir_module
class TABLE:
    @R.function
    def main(
        i: R.Tensor((6,), "int32"), j: R.Tensor((6, 5), "int64"), u: R.Tensor((6, 5), "float64"), table: R.Tensor((4001, 5), "float64")
    ):
        R.func_attr({"num_input": 3})
        with R.dataflow():
            far = R.multiply(i, R.const(2500, "int32"))
            near = R.subtract(far, R.const(2400, "int32"))
            a = R.take(table, near, axis=0, mode="clip")
            far_too = R.multiply(j, R.const(1333, "int64"))
            b = R.gather_elements(table, far_too, axis=0)
            c = R.scatter_elements(table, far_too, u, axis=0, reduction="add")
            d = R.sum(c, axis=[0])
            R.output(a, b, d)
        return a, b, d


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("dim", [0, 1])
def test_elements_that_move_along_a_split_dimension(workers, dim):
    split = spmd.P("tp", None) if dim == 0 else spmd.P(None, "tp")
    assert_equivalent(MOVES, workers, {"main.x": split, "main.y": split, "main.return": split})


@pytest.mark.parametrize("workers", [2, 4])
def test_only_what_must_move_is_sent(workers):
    """Mirrored shards of an uneven flip, the elements of a backward slice; a triangle needs nothing."""
    sharded = assert_equivalent(ALONE, workers, {"*": spmd.P("tp", None)}, profile=BYTES_COUNT)
    kinds = {name: {c.kind for c in sharded.plan.collectives if c.function == name} for name in ("flip", "slice", "tril")}
    assert kinds == {"flip": {"permute"}, "slice": {"permute"}, "tril": set()}


@pytest.mark.parametrize("workers", [2, 4])
def test_reshapes_that_do_not_keep_the_split_dimension(workers):
    """Dimension 1 of (12, 8) split, viewed as (16, 6); an uneven (5, 3); a merge of a dimension that does not lead."""
    specs = {"main.x": spmd.P(None, "tp"), "main.y": spmd.P("tp", None), "main.z": spmd.P(None, "tp", None)}
    assert_equivalent(RESHAPES, workers, specs)


@pytest.mark.parametrize("workers", [2, 4])
def test_a_table_that_is_split_over_its_rows(workers):
    """Indices outside of the table are clamped to the whole table, not to a shard; the workers do not divide its rows."""
    sharded = assert_equivalent(TABLE, workers, {"table": spmd.P("tp", None, gather=False)}, profile="generic")
    assert str(sharded.plan.params["table"]) == "[tp, -]"
    assert all(c.kind == "all_reduce" for c in sharded.plan.collectives)
