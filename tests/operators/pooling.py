"""Pooling: overlapping windows, every way to count padding, layouts, whole-dimension means.

Pixel shuffle is not here: TVM 0.27 cannot compile it (its legalization calls a TOPI function that there is not).
"""

import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def max_pool1d(x: R.Tensor((2, 4, 9), "float64")):
        return R.nn.max_pool1d(x, pool_size=3, strides=2, padding=1)

    @R.function
    def max_pool2d(x: R.Tensor((2, 6, 8, 7), "float64")):
        return R.nn.max_pool2d(x, pool_size=(3, 2), strides=(2, 1), padding=[1, 0, 1, 1])

    @R.function
    def max_pool2d_int(x: R.Tensor((2, 4, 7, 5), "int32")):
        return R.nn.max_pool2d(x, pool_size=(3, 3), strides=(1, 2), padding=1, layout="NCHW", ceil_mode=True)

    @R.function
    def max_pool2d_tiles(x: R.Tensor((2, 8, 6, 4), "float64")):
        return R.nn.max_pool2d(x, pool_size=(2, 2), strides=2, layout="NHWC")

    @R.function
    def max_pool2d_dilated(x: R.Tensor((1, 2, 11, 8), "float64")):
        return R.nn.max_pool2d(x, pool_size=(3, 2), strides=(2, 3), dilation=(2, 3), padding=[2, 1, 2, 1])

    @R.function
    def max_pool2d_blocked(x: R.Tensor((1, 2, 5, 4, 4), "float32")):
        return R.nn.max_pool2d(x, pool_size=(3, 3), padding=1, layout="NCHW4c")

    @R.function
    def max_pool3d(x: R.Tensor((1, 2, 5, 4, 6), "float64")):
        return R.nn.max_pool3d(x, pool_size=(2, 3, 2), strides=(2, 1, 2), padding=[0, 1, 0, 1, 1, 0])

    @R.function
    def avg_pool1d(x: R.Tensor((2, 3, 10), "float64")):
        return R.nn.avg_pool1d(x, pool_size=4, strides=3, padding=2)

    @R.function
    def avg_pool2d(x: R.Tensor((2, 4, 8, 9), "float64")):
        return R.nn.avg_pool2d(x, pool_size=(3, 3), strides=(2, 2), padding=[1, 1, 1, 0], ceil_mode=True)

    @R.function
    def avg_pool2d_counting(x: R.Tensor((2, 4, 8, 9), "float64")):
        return R.nn.avg_pool2d(x, pool_size=(3, 4), strides=(2, 3), padding=[1, 2, 1, 1], count_include_pad=True)

    @R.function
    def avg_pool2d_counting_ceil(x: R.Tensor((1, 2, 7, 8), "float64")):
        return R.nn.avg_pool2d(x, pool_size=(4, 3), strides=(3, 2), padding=[1, 1, 1, 0], count_include_pad=True, ceil_mode=True)

    @R.function
    def avg_pool2d_dilated(x: R.Tensor((1, 2, 9, 6), "float64")):
        return R.nn.avg_pool2d(x, pool_size=(3, 2), dilation=(2, 1), padding=[3, 0, 2, 1])

    @R.function
    def avg_pool2d_int(x: R.Tensor((2, 4, 6, 5), "int32")):
        return R.nn.avg_pool2d(x, pool_size=(3, 2), padding=1)

    @R.function
    def avg_pool3d(x: R.Tensor((1, 2, 5, 4, 6), "float64")):
        return R.nn.avg_pool3d(x, pool_size=(2, 3, 2), strides=(1, 2, 2), padding=[1, 1, 0, 0, 1, 0], layout="NCDHW")

    @R.function
    def adaptive_avg_pool1d(x: R.Tensor((2, 3, 8), "float64")):
        return R.nn.adaptive_avg_pool1d(x, output_size=4)

    @R.function
    def adaptive_avg_pool2d(x: R.Tensor((2, 4, 6, 7), "float64")):
        return R.nn.adaptive_avg_pool2d(x, output_size=(1, 1))

    @R.function
    def adaptive_avg_pool2d_uneven(x: R.Tensor((2, 9, 8, 4), "float64")):
        return R.nn.adaptive_avg_pool2d(x, output_size=(5, 8), layout="NHWC")

    @R.function
    def adaptive_avg_pool2d_same(x: R.Tensor((2, 4, 6, 5), "float64")):
        return R.nn.adaptive_avg_pool2d(x)

    @R.function
    def adaptive_avg_pool3d(x: R.Tensor((1, 2, 4, 6, 5), "float64")):
        return R.nn.adaptive_avg_pool3d(x, output_size=(2, 3, 1))

    @R.function
    def max_pool2d_backward(g: R.Tensor((2, 4, 4, 4), "float64"), x: R.Tensor((2, 4, 8, 8), "float64")):
        return R.grad.max_pool2d_backward(g, x, pool_size=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1))

    @R.function
    def max_pool2d_backward_tiles(g: R.Tensor((2, 4, 3, 4), "float64"), x: R.Tensor((2, 4, 6, 8), "float64")):
        return R.grad.max_pool2d_backward(g, x, pool_size=(2, 2), strides=(2, 2))

    @R.function
    def avg_pool2d_backward(g: R.Tensor((2, 4, 3, 8), "float64"), x: R.Tensor((2, 4, 6, 8), "float64")):
        return R.grad.avg_pool2d_backward(g, x, pool_size=(2, 3), strides=(2, 1), padding=(0, 1, 0, 1))


ARGUMENTS: dict[str, list] = {}
MISSING: dict[str, str] = {}

assert isinstance(MODULE, tvm.IRModule)
