"""Whole convolution networks: halos, strides and channel splits after one another."""

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from spmd import P
from spmd.testing import assert_equivalent


@I.ir_module
class Stem:
    """A strided convolution, relu, and pooling whose windows overlap."""

    @R.function
    def main(x: R.Tensor((1, 3, 17, 12), "float64"), w: R.Tensor((4, 3, 7, 7), "float64")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.nn.conv2d(x, w, strides=2, padding=3)
            b = R.nn.relu(a)
            c = R.nn.max_pool2d(b, pool_size=(3, 3), strides=(2, 2), padding=[1, 1, 1, 1])
            R.output(c)
        return c


@I.ir_module
class Block:
    """A residual block: two convolutions, and what goes around them."""

    @R.function
    def main(x: R.Tensor((2, 4, 6, 6), "float64"), w1: R.Tensor((6, 4, 3, 3), "float64"), w2: R.Tensor((4, 6, 3, 3), "float64")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.nn.conv2d(x, w1, padding=1)
            b = R.nn.relu(a)
            c = R.nn.conv2d(b, w2, padding=1)
            d = R.add(c, x)
            e = R.nn.adaptive_avg_pool2d(R.nn.relu(d), output_size=(1, 1))
            R.output(e)
        return e


@I.ir_module
class Separable:
    """Depthwise, then pointwise."""

    @R.function
    def main(x: R.Tensor((1, 6, 7, 8), "float64"), depth: R.Tensor((6, 1, 3, 3), "float64"), point: R.Tensor((5, 6, 1, 1), "float64")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.nn.conv2d(x, depth, padding=1, strides=2, groups=6)
            b = R.nn.relu(a)
            c = R.nn.conv2d(b, point)
            R.output(c)
        return c


@I.ir_module
class Decoder:
    """Up by a transposed convolution and by resizing, then a convolution."""

    @R.function
    def main(x: R.Tensor((1, 3, 5, 4), "float32"), w1: R.Tensor((3, 4, 4, 4), "float32"), w2: R.Tensor((2, 4, 3, 3), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.nn.conv2d_transpose(x, w1, strides=2, padding=1)
            b = R.image.resize2d(a, (20, 16))
            c = R.nn.conv2d(b, w2, padding=1)
            R.output(c)
        return c


def kinds(sharded):
    return sorted(c.kind for c in sharded.plan.collectives)


@pytest.mark.parametrize("workers", [2, 3])
def test_rows_stay_split_through_strides_and_overlapping_pooling(workers):
    rows = P(None, None, "tp", None)
    sharded = assert_equivalent(Stem, workers, {"x": rows, "a": rows, "b": rows, "c": rows})
    assert {"permute"} <= set(kinds(sharded)) <= {"permute", "all_gather"}


def test_channels_split_by_columns_then_by_rows():
    sharded = assert_equivalent(Block, 2, {"w1": P("tp", None, None, None), "w2": P(None, "tp", None, None)})
    assert kinds(sharded) == ["all_reduce"]


def test_rows_of_a_residual_block():
    rows = P(None, None, "tp", None)
    sharded = assert_equivalent(Block, 4, {"x": rows, "a": rows, "d": rows})
    assert set(kinds(sharded)) <= {"permute", "all_reduce", "all_gather"}


@pytest.mark.parametrize("workers", [2, 4])
def test_groups_then_channels(workers):
    sharded = assert_equivalent(Separable, workers, {"depth": P("tp", None, None, None), "point": P(None, "tp", None, None)})
    assert kinds(sharded) == ["all_reduce"]


def test_a_decoder_over_rows():
    rows = P(None, None, "tp", None)
    sharded = assert_equivalent(Decoder, 2, {"x": rows, "a": rows, "b": rows, "c": rows})
    assert set(kinds(sharded)) <= {"permute", "all_gather"}


def test_a_halo_sends_the_edges_alone():
    rows = P(None, None, "tp", None)
    sharded = assert_equivalent(Block, 2, {"x": rows, "a": rows, "c": rows})
    sent = [c.bytes for c in sharded.plan.collectives if c.kind == "permute"]
    edge = np.dtype("float64").itemsize * 2 * 6  # batch, width
    assert sorted(sent) == [4 * edge, 4 * edge, 6 * edge, 6 * edge]
