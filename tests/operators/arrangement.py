"""Operators that arrange elements anew, make them from nothing, or ask about a tensor."""

import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T


@I.ir_module
class MODULE:
    @R.function
    def concat(x: R.Tensor((5, 4), "float64"), y: R.Tensor((1, 4), "float64"), z: R.Tensor((6, 4), "float64")):
        return R.concat((x, y, z), axis=0)

    @R.function
    def split(x: R.Tensor((3, 11), "float64")):
        return R.split(x, [4, 5], axis=1)

    @R.function
    def stack(x: R.Tensor((5, 4), "float64"), y: R.Tensor((5, 4), "float64")):
        return R.stack((x, y), axis=-1)

    @R.function
    def stack_first(x: R.Tensor((4,), "int32"), y: R.Tensor((4,), "int32"), z: R.Tensor((4,), "int32")):
        return R.stack((x, y, z), axis=0)

    @R.function
    def meshgrid(x: R.Tensor((5,), "float64"), y: R.Tensor((4,), "float64"), z: R.Tensor((2,), "float64")):
        return R.meshgrid((x, y, z), indexing="ij")

    @R.function
    def meshgrid_xy(x: R.Tensor((4,), "float64"), y: R.Tensor((4,), "float64")):
        return R.meshgrid((x, y), indexing="xy")

    @R.function
    def tile(x: R.Tensor((5, 4), "float64")):
        return R.tile(x, [3, 2, 3])

    @R.function
    def tile_few(x: R.Tensor((2, 5, 4), "int64")):
        return R.tile(x, [2, 1])

    @R.function
    def repeat(x: R.Tensor((5, 4), "float64")):
        return R.repeat(x, 3, axis=-1)

    @R.function
    def repeat_all(x: R.Tensor((5, 2, 4), "float64")):
        return R.repeat(x, 2)

    @R.function
    def reshape_merge(x: R.Tensor((3, 5, 4), "float64")):
        return R.reshape(x, (3, 20))

    @R.function
    def reshape_split(x: R.Tensor((12, 5), "float64")):
        return R.reshape(x, (3, 4, 5))

    @R.function
    def reshape_across(x: R.Tensor((12, 8), "float64")):
        return R.reshape(x, (16, 6))

    @R.function
    def reshape_scalar(x: R.Tensor((), "float64")):
        return R.reshape(x, (1, 1))

    @R.function
    def reshape_to_scalar(x: R.Tensor((1, 1), "float64")):
        return R.reshape(x, ())

    @R.function
    def reshape_nothing(x: R.Tensor((0, 4), "float64")):
        return R.reshape(x, (0, 2, 2))

    @R.function
    def view(x: R.Tensor((12, 8), "float64")):
        return R.memory.view(x, R.shape([12, 2, 4]), R.dtype("float64"))

    @R.function
    def view_bytes(x: R.Tensor((6, 4), "float64")):
        return R.memory.view(x, R.shape([6, 4]), R.dtype("int64"))

    @R.function
    def flatten(x: R.Tensor((5, 3), "float64")):
        return R.flatten(x)

    @R.function
    def squeeze(x: R.Tensor((1, 5, 1, 4), "float64")):
        return R.squeeze(x)

    @R.function
    def expand_dims(x: R.Tensor((5, 4), "float64")):
        return R.expand_dims(x, axis=[0, -1])

    @R.function
    def permute_dims(x: R.Tensor((5, 4, 2), "float64")):
        return R.permute_dims(x, axes=[2, 0, -2])

    @R.function
    def broadcast_to(x: R.Tensor((5, 1), "float64")):
        return R.broadcast_to(x, (3, 5, 4))

    @R.function
    def layout_transform(x: R.Tensor((3, 8, 5), "float64")):
        return R.layout_transform(x, index_map=lambda i, j, k: (j // 4, k, i, j % 4))

    @R.function
    def layout_transform_twice(x: R.Tensor((24, 5), "float64")):
        return R.layout_transform(x, index_map=lambda i, j: (i // 4 % 3, j, i // 12, i % 4))

    @R.function
    def layout_transform_odd(x: R.Tensor((4, 4), "float64")):
        return R.layout_transform(x, index_map=lambda i, j: (i * 4 + j,))

    @R.function
    def layout_transform_padded(x: R.Tensor((6,), "float64")):
        return R.layout_transform(x, index_map=lambda i: (i // 4, i % 4), pad_value=0.0)

    @R.function
    def zeros():
        return R.zeros((5, 4), "float64")

    @R.function
    def ones():
        return R.ones((4,), "int32")

    @R.function
    def full(x: R.Tensor((), "float64")):
        return R.full((5, 4), x, "float64")

    @R.function
    def full_like(x: R.Tensor((5, 4), "float64"), y: R.Tensor((), "float64")):
        return R.full_like(x, y)

    @R.function
    def zeros_like(x: R.Tensor((5, 4), "float64")):
        return R.zeros_like(x)

    @R.function
    def ones_like(x: R.Tensor((5, 4), "float64")):
        return R.ones_like(x, "int32")

    @R.function
    def arange():
        return R.arange(3, 17, 2, "int64")

    @R.function
    def arange_floats():
        return R.arange(R.prim_value(1.0), R.prim_value(3.0), R.prim_value(0.25), "float64")

    @R.function
    def arange_halves():
        return R.arange(R.prim_value(T.float32(0.1)), R.prim_value(T.float32(0.8)), R.prim_value(T.float32(0.1)), "float32")

    @R.function
    def arange_narrow():
        return R.arange(250, 3, -40, "uint8")

    @R.function
    def eye():
        return R.eye(5, 8, -1, "float64")

    @R.function
    def eye_like(x: R.Tensor((7, 4), "float32")):
        return R.eye_like(x, 1)

    @R.function
    def hamming_window():
        return R.hamming_window(R.prim_value(9), R.prim_value(True), R.prim_value(0.54), R.prim_value(0.46), "float64")

    @R.function
    def hamming_window_symmetric():
        return R.hamming_window(R.prim_value(8), R.prim_value(False), R.prim_value(0.5), R.prim_value(0.5), "float64")

    @R.function
    def size(x: R.Tensor((5, 8), "float64")):
        return R.size(x)

    @R.function
    def ensure_zero_offset(x: R.Tensor((5, 8), "float64")):
        return R.memory.ensure_zero_offset(x)


ARGUMENTS: dict[str, list] = {}
MISSING = {
    "layout_transform_odd": "a map that merges dimensions is not read",
    "meshgrid_xy": "TVM infers other shapes than it makes, unless the sizes are equal",
    "reshape_nothing": "there is nothing to split",
}

assert isinstance(MODULE, tvm.IRModule)
