"""Convolutions: groups, layouts, strides, dilation and paddings that make neighbours' edges reach unevenly."""

import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def conv1d(x: R.Tensor((2, 4, 11), "float64"), w: R.Tensor((5, 4, 3), "float64")):
        return R.nn.conv1d(x, w, padding=1)

    @R.function
    def conv1d_strided(x: R.Tensor((2, 4, 12), "float64"), w: R.Tensor((5, 4, 3), "float64")):
        return R.nn.conv1d(x, w, strides=2, padding=[2, 0], dilation=2)

    @R.function
    def conv1d_wide(x: R.Tensor((1, 2, 9), "float64"), w: R.Tensor((3, 2, 7), "float64")):
        return R.nn.conv1d(x, w, padding=3)

    @R.function
    def conv1d_valid(x: R.Tensor((1, 8, 2), "float64"), w: R.Tensor((3, 5, 2), "float64")):
        return R.nn.conv1d(x, w, data_layout="NWC", kernel_layout="OWI")

    @R.function
    def conv2d(x: R.Tensor((3, 4, 8, 9), "float64"), w: R.Tensor((6, 4, 3, 5), "float64")):
        return R.nn.conv2d(x, w, strides=(1, 2), padding=[1, 2, 1, 1])

    @R.function
    def conv2d_pointwise(x: R.Tensor((2, 4, 5, 6), "float64"), w: R.Tensor((4, 4, 1, 1), "float64")):
        return R.nn.conv2d(x, w)

    @R.function
    def conv2d_skipping(x: R.Tensor((2, 4, 8, 7), "float64"), w: R.Tensor((4, 4, 1, 1), "float64")):
        return R.nn.conv2d(x, w, strides=2)

    @R.function
    def conv2d_patches(x: R.Tensor((2, 3, 8, 12), "float64"), w: R.Tensor((4, 3, 2, 4), "float64")):
        return R.nn.conv2d(x, w, strides=(2, 4))

    @R.function
    def conv2d_nhwc(x: R.Tensor((2, 7, 8, 4), "float64"), w: R.Tensor((3, 3, 4, 6), "float64")):
        return R.nn.conv2d(x, w, strides=2, padding=1, data_layout="NHWC", kernel_layout="HWIO")

    @R.function
    def conv2d_grouped(x: R.Tensor((2, 12, 5, 4), "float64"), w: R.Tensor((8, 3, 3, 3), "float64")):
        return R.nn.conv2d(x, w, padding=1, groups=4)

    @R.function
    def conv2d_depthwise(x: R.Tensor((2, 6, 8, 8), "float64"), w: R.Tensor((12, 1, 3, 3), "float64")):
        return R.nn.conv2d(x, w, padding=1, strides=2, groups=6)

    @R.function
    def conv2d_int(x: R.Tensor((2, 4, 6, 5), "int8"), w: R.Tensor((4, 4, 3, 3), "int8")):
        return R.nn.conv2d(x, w, padding=1, out_dtype="int32")

    @R.function
    def conv3d(x: R.Tensor((1, 2, 6, 5, 4), "float64"), w: R.Tensor((4, 2, 3, 2, 2), "float64")):
        return R.nn.conv3d(x, w, strides=(2, 1, 1), padding=[1, 0, 1, 1, 1, 0])

    @R.function
    def conv1d_transpose(x: R.Tensor((2, 4, 7), "float64"), w: R.Tensor((4, 3, 4), "float64")):
        return R.nn.conv1d_transpose(x, w, strides=3, padding=1, output_padding=2)

    @R.function
    def conv1d_transpose_spread(x: R.Tensor((2, 2, 5), "float64"), w: R.Tensor((2, 3, 2), "float64")):
        return R.nn.conv1d_transpose(x, w, strides=4, padding=[1, 0], output_padding=3)

    @R.function
    def conv2d_transpose(x: R.Tensor((2, 4, 6, 5), "float64"), w: R.Tensor((4, 3, 3, 4), "float64")):
        return R.nn.conv2d_transpose(x, w, strides=2, padding=1)

    @R.function
    def conv2d_transpose_longer(x: R.Tensor((2, 2, 6, 5), "float64"), w: R.Tensor((2, 3, 3, 2), "float64")):
        return R.nn.conv2d_transpose(x, w, strides=2, padding=1, output_padding=[0, 1])

    @R.function
    def conv2d_transpose_tiles(x: R.Tensor((1, 6, 4, 5), "float64"), w: R.Tensor((6, 4, 2, 2), "float64")):
        return R.nn.conv2d_transpose(x, w, strides=2)

    @R.function
    def conv2d_transpose_grouped(x: R.Tensor((1, 6, 4, 5), "float64"), w: R.Tensor((6, 2, 3, 3), "float64")):
        return R.nn.conv2d_transpose(x, w, groups=3, padding=1)

    @R.function
    def conv3d_transpose(x: R.Tensor((1, 2, 3, 4, 2), "float64"), w: R.Tensor((2, 4, 3, 3, 2), "float64")):
        return R.nn.conv3d_transpose(x, w, strides=(1, 2, 1), padding=1)


ARGUMENTS: dict[str, list] = {}
MISSING: dict[str, str] = {}
SPECIAL: dict[str, str] = {
    "conv2d_skipping": "a product too small for its dtype is rounded to a zero of its sign, and what is added first decides",
}
"""Function -> why it has no right answer with special numbers in any place."""

assert isinstance(MODULE, tvm.IRModule)
