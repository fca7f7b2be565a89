"""Operators that take a part of a dimension, add to it or reverse it."""

import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def flip(x: R.Tensor((3, 8), "float64")):
        return R.flip(x, axis=1)

    @R.function
    def flip_uneven(x: R.Tensor((7, 5), "int64")):
        return R.flip(x, axis=-2)

    @R.function
    def flip_few(x: R.Tensor((2, 9), "float64")):
        return R.flip(x, axis=1)

    @R.function
    def slice_middle(x: R.Tensor((12, 6), "float64")):
        return R.strided_slice(x, axes=[0], begin=[2], end=[10])

    @R.function
    def slice_uneven(x: R.Tensor((9, 7), "float64")):
        return R.strided_slice(x, axes=[0, 1], begin=[1, 2], end=[9, 20])

    @R.function
    def slice_from_the_end(x: R.Tensor((8, 7), "float64")):
        return R.strided_slice(x, axes=[-1], begin=[-5], end=[-1])

    @R.function
    def slice_every_other(x: R.Tensor((4, 12), "float64")):
        return R.strided_slice(x, axes=[1], begin=[1], end=[12], strides=[2])

    @R.function
    def slice_every_third(x: R.Tensor((4, 17), "float64")):
        return R.strided_slice(x, axes=[1], begin=[4], end=[16], strides=[3])

    @R.function
    def slice_odd(x: R.Tensor((7, 3), "float64")):
        return R.strided_slice(x, axes=[0], begin=[0], end=[7], strides=[2])

    @R.function
    def slice_backwards(x: R.Tensor((9, 4), "float64")):
        return R.strided_slice(x, axes=[0], begin=[7], end=[1], strides=[-2])

    @R.function
    def slice_both_ways(x: R.Tensor((9, 8), "float64")):
        return R.strided_slice(x, axes=[0, 1], begin=[8, 1], end=[0, 7], strides=[-3, 2])

    @R.function
    def slice_of_nothing(x: R.Tensor((6, 4), "float64")):
        return R.strided_slice(x, axes=[0], begin=[3], end=[3])

    @R.function
    def slice_scatter(x: R.Tensor((8, 6), "float64"), y: R.Tensor((5, 6), "float64")):
        return R.slice_scatter(x, y, R.prim_value(2), R.prim_value(7), R.prim_value(1), axis=0)

    @R.function
    def slice_scatter_strided(x: R.Tensor((3, 9), "float64"), y: R.Tensor((3, 4), "float64")):
        return R.slice_scatter(x, y, R.prim_value(1), R.prim_value(9), R.prim_value(2), axis=1)

    @R.function
    def pad(x: R.Tensor((4, 7), "float64")):
        return R.nn.pad(x, pad_width=[0, 0, 2, 3])

    @R.function
    def pad_with_ones(x: R.Tensor((8, 3), "float64")):
        return R.nn.pad(x, pad_width=[1, 0, 0, 1], pad_value=1)

    @R.function
    def pad_reflect(x: R.Tensor((3, 8), "float64")):
        return R.nn.pad(x, pad_width=[0, 0, 3, 2], pad_mode="reflect")

    @R.function
    def pad_replicate(x: R.Tensor((7, 4), "float64")):
        return R.nn.pad(x, pad_width=[2, 1, 0, 0], pad_mode="replicate")

    @R.function
    def pad_circular(x: R.Tensor((5, 6), "float64")):
        return R.nn.pad(x, pad_width=[0, 2, 1, 2], pad_mode="circular")

    @R.function
    def tril(x: R.Tensor((2, 7, 5), "float64")):
        return R.tril(x, 1)

    @R.function
    def triu(x: R.Tensor((6, 8), "int32")):
        return R.triu(x, -2)


ARGUMENTS: dict[str, list] = {}
MISSING = {"slice_of_nothing": "there is nothing to split"}

assert isinstance(MODULE, tvm.IRModule)
