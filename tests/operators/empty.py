"""Tensors without elements, of rank 0, and with fewer elements than workers."""

import numpy as np
import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def none_sum(x: R.Tensor((0, 5), "float64")):
        return R.sum(x, axis=[0])

    @R.function
    def none_sum_rows(x: R.Tensor((0, 5), "float64")):
        return R.sum(x, axis=[1])

    @R.function
    def none_sum_int(x: R.Tensor((3, 0), "int32")):
        return R.sum(x)

    @R.function
    def none_max(x: R.Tensor((0, 5), "float64")):
        return R.max(x, axis=[0])

    @R.function
    def none_min_int(x: R.Tensor((5, 0), "int32")):
        return R.min(x, axis=[1])

    @R.function
    def none_prod(x: R.Tensor((0, 5), "float64")):
        return R.prod(x, axis=[0])

    @R.function
    def none_softmax(x: R.Tensor((0, 5), "float64")):
        return R.nn.softmax(x, axis=1)

    @R.function
    def none_softmax_rows(x: R.Tensor((5, 0), "float64")):
        return R.nn.softmax(x, axis=1)

    @R.function
    def none_add(x: R.Tensor((0, 5), "float64"), y: R.Tensor((5,), "float64")):
        return R.add(x, y)

    @R.function
    def none_matmul(x: R.Tensor((5, 0), "float64"), y: R.Tensor((0, 4), "float64")):
        return R.matmul(x, y)

    @R.function
    def none_matmul_rows(x: R.Tensor((0, 5), "float64"), y: R.Tensor((5, 4), "float64")):
        return R.matmul(x, y)

    @R.function
    def none_concat(x: R.Tensor((0, 5), "float64"), y: R.Tensor((3, 5), "float64")):
        return R.concat((x, y), axis=0)

    @R.function
    def none_reshape(x: R.Tensor((0, 6), "float64")):
        return R.reshape(x, (0, 2, 3))

    @R.function
    def none_permute(x: R.Tensor((0, 6), "float64")):
        return R.permute_dims(x)

    @R.function
    def none_take(x: R.Tensor((5, 6), "float64"), i: R.Tensor((0,), "int32")):
        return R.take(x, i, axis=0)

    @R.function
    def none_slice(x: R.Tensor((5, 6), "float64")):
        return R.strided_slice(x, [0], [2], [2])

    @R.function
    def none_pad(x: R.Tensor((0, 6), "float64")):
        return R.nn.pad(x, [2, 1, 0, 0])

    @R.function
    def none_zeros():
        return R.zeros((0, 3), "float64")

    @R.function
    def none_scatter(x: R.Tensor((5, 3), "float64"), i: R.Tensor((0, 3), "int64"), u: R.Tensor((0, 3), "float64")):
        return R.scatter_elements(x, i, u, axis=0, reduction="add")

    @R.function
    def rank_0_add(x: R.Tensor((), "float64"), y: R.Tensor((), "float64")):
        return R.add(x, y)

    @R.function
    def rank_0_times(x: R.Tensor((5, 3), "float64"), y: R.Tensor((), "float64")):
        return R.multiply(x, y)

    @R.function
    def rank_0_sum(x: R.Tensor((), "float64")):
        return R.sum(x)

    @R.function
    def rank_0_reshape(x: R.Tensor((), "float64")):
        return R.reshape(x, (1, 1))

    @R.function
    def rank_0_broadcast(x: R.Tensor((), "float64")):
        return R.broadcast_to(x, (5, 3))

    @R.function
    def rank_0_where(c: R.Tensor((), "bool"), x: R.Tensor((5,), "float64"), y: R.Tensor((), "float64")):
        return R.where(c, x, y)

    @R.function
    def rank_0_take(x: R.Tensor((5, 3), "float64"), i: R.Tensor((), "int64")):
        return R.take(x, i, axis=0)

    @R.function
    def few_sum(x: R.Tensor((2, 1), "float64")):
        return R.sum(x, axis=[0])

    @R.function
    def few_max(x: R.Tensor((2, 1), "float64")):
        return R.max(x, axis=[0, 1])

    @R.function
    def few_prod(x: R.Tensor((2, 2), "int32")):
        return R.prod(x, axis=[0])

    @R.function
    def few_mean(x: R.Tensor((2, 3), "float64")):
        return R.mean(x, axis=[0])

    @R.function
    def few_std(x: R.Tensor((2, 3), "float64")):
        return R.std(x, axis=[0])

    @R.function
    def few_softmax(x: R.Tensor((2, 3), "float64")):
        return R.nn.softmax(x, axis=0)

    @R.function
    def few_cumsum(x: R.Tensor((2, 3), "float64")):
        return R.cumsum(x, axis=0)

    @R.function
    def few_argmax(x: R.Tensor((2, 3), "float64")):
        return R.argmax(x, axis=0)

    @R.function
    def few_topk(x: R.Tensor((2, 3), "float64")):
        return R.topk(x, 1, axis=0)

    @R.function
    def few_matmul(x: R.Tensor((1, 2), "float64"), y: R.Tensor((2, 1), "float64")):
        return R.matmul(x, y)

    @R.function
    def few_take(x: R.Tensor((2, 3), "float64"), i: R.Tensor((2,), "int64")):
        return R.take(x, i, axis=0)

    @R.function
    def few_flip(x: R.Tensor((2, 3), "float64")):
        return R.flip(x, axis=0)

    @R.function
    def few_pad(x: R.Tensor((2, 3), "float64")):
        return R.nn.pad(x, [1, 1, 0, 0], pad_mode="reflect")

    @R.function
    def few_concat(x: R.Tensor((2, 3), "float64"), y: R.Tensor((1, 3), "float64")):
        return R.concat((x, y), axis=0)

    @R.function
    def few_conv(x: R.Tensor((1, 2, 2), "float64"), w: R.Tensor((2, 2, 3), "float64")):
        return R.nn.conv1d(x, w, padding=1)

    @R.function
    def few_rms_norm(x: R.Tensor((1, 2), "float32"), w: R.Tensor((2,), "float32")):
        return R.nn.rms_norm(x, w, axes=[-1])


_RNG = np.random.default_rng(0)
ARGUMENTS: dict[str, list] = {
    "few_max": [-1 - _RNG.random((2, 1))],
    "few_prod": [_RNG.integers(2, 5, (2, 2)).astype("int32")],
    "few_take": [_RNG.normal(0, 1, (2, 3)), np.array([1, 0])],
}
MISSING = {"none_reshape": "without elements, dimensions of any size can be taken for one another"}

assert isinstance(MODULE, tvm.IRModule)
