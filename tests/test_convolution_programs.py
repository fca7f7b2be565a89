"""Whole convolution networks: halos, strides and channel splits after one another."""

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from spmd import P
from spmd.costs.profile import Profile
from spmd.testing import assert_equivalent


@I.ir_module
class Stem:
    """A strided convolution, relu, and pooling whose windows overlap."""

    @R.function
    def main(x: R.Tensor((1, 3, 17, 12), "float64"), w: R.Tensor((3, 3, 7, 7), "float64")):
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
            e = R.nn.relu(d)
            f = R.nn.adaptive_avg_pool2d(e, output_size=(1, 1))
            R.output(f)
        return f


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


ROWS, CHANNELS = P(None, None, "tp", None), P(None, "tp", None, None)
WHOLE = P(others=None)
SLOW = Profile("slow arithmetic", flops=1e9, memory_bandwidth=1e11, link_bandwidth=1e9, link_latency=1e-6)
"""Even these small convolutions pay to be split, and what is sent counts."""


def kinds(sharded):
    return sorted(c.kind for c in sharded.plan.collectives)


def at(spec, *names):
    return {f"main.{name}": spec for name in names}


@pytest.mark.parametrize("workers", [2, 3])
def test_rows_stay_split_through_strides_and_overlapping_pooling(workers):
    sharded = assert_equivalent(Stem, workers, {"w": WHOLE, **at(ROWS, "x", "a", "b", "c")}, profile=SLOW)
    assert {c.value for c in sharded.plan.collectives if c.kind == "permute"} == {"a", "c"}
    assert kinds(sharded).count("all_gather") == 1  # of the result


def test_channels_split_by_columns_then_by_rows():
    weights = {"w1": P("tp", None, None, None), "w2": CHANNELS}
    sharded = assert_equivalent(Block, 2, {**weights, **at(CHANNELS, "a", "b"), **at(WHOLE, "c", "f")}, profile=SLOW)
    assert [(c.kind, c.value) for c in sharded.plan.collectives if c.value != "f"] == [("all_reduce", "c")]


def test_rows_of_a_residual_block():
    sharded = assert_equivalent(Block, 4, {**at(ROWS, "x", "a", "b", "c", "d", "e"), **at(WHOLE, "f")}, profile=SLOW)
    assert kinds(sharded) == ["all_reduce", "permute", "permute", "permute", "permute"]


@pytest.mark.parametrize("workers", [2, 4])
def test_groups_then_channels(workers):
    weights = {"depth": P("tp", None, None, None), "point": CHANNELS}
    sharded = assert_equivalent(Separable, workers, {**weights, **at(CHANNELS, "x", "a", "b"), **at(WHOLE, "c")}, profile=SLOW)
    assert kinds(sharded) == ["all_reduce"]


def test_a_decoder_over_rows():
    sharded = assert_equivalent(Decoder, 2, {"w?": WHOLE, **at(ROWS, "x", "a", "b", "c")}, profile=SLOW)
    assert {c.value for c in sharded.plan.collectives if c.kind == "permute"} == {"a", "b", "c"}


def test_a_halo_sends_the_edges_alone():
    sharded = assert_equivalent(Block, 2, {**at(ROWS, "x", "a", "b", "c", "d", "e"), **at(WHOLE, "f")}, profile=SLOW)
    edge = np.dtype("float64").itemsize * 2 * 6  # batch, width
    assert sorted(c.bytes for c in sharded.plan.collectives if c.kind == "permute") == [4 * edge, 4 * edge, 6 * edge, 6 * edge]
