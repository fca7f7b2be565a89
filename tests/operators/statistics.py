"""Norms and statistics: of the split dimension, of another one, and with padding."""

import numpy as np
import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def rms_norm(x: R.Tensor((3, 4, 7), "float32"), w: R.Tensor((7,), "float32")):
        return R.nn.rms_norm(x, w, axes=[-1], epsilon=1e-3)

    @R.function
    def rms_norm_two_axes(x: R.Tensor((3, 4, 6), "float32"), w: R.Tensor((4, 6), "float32")):
        return R.nn.rms_norm(x, w, axes=[1, 2])

    @R.function
    def rms_norm_half(x: R.Tensor((4, 8), "float16"), w: R.Tensor((8,), "float16")):
        return R.nn.rms_norm(x, w, axes=[-1])

    @R.function
    def layer_norm(x: R.Tensor((3, 4, 7), "float32"), g: R.Tensor((7,), "float32"), b: R.Tensor((7,), "float32")):
        return R.nn.layer_norm(x, g, b, axes=[-1])

    @R.function
    def layer_norm_apart(x: R.Tensor((3, 5, 4), "float32"), g: R.Tensor((3, 4), "float32"), b: R.Tensor((3, 4), "float32")):
        return R.nn.layer_norm(x, g, b, axes=[0, 2], epsilon=1e-2)

    @R.function
    def layer_norm_half(x: R.Tensor((4, 8), "float16"), g: R.Tensor((8,), "float16"), b: R.Tensor((8,), "float16")):
        return R.nn.layer_norm(x, g, b, axes=[-1])

    @R.function
    def group_norm(x: R.Tensor((2, 12, 3, 4), "float32"), g: R.Tensor((12,), "float32"), b: R.Tensor((12,), "float32")):
        return R.nn.group_norm(x, g, b, num_groups=4, channel_axis=1, axes=[2, 3])

    @R.function
    def group_norm_last(x: R.Tensor((2, 3, 15), "float32"), g: R.Tensor((15,), "float32"), b: R.Tensor((15,), "float32")):
        return R.nn.group_norm(x, g, b, num_groups=3, channel_axis=-1, axes=[1])

    @R.function
    def instance_norm(x: R.Tensor((2, 4, 3, 5), "float32"), g: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32")):
        return R.nn.instance_norm(x, g, b, channel_axis=1, axes=[2, 3])

    @R.function
    def batch_norm_training(
        x: R.Tensor((4, 5, 3), "float64"),
        g: R.Tensor((5,), "float64"),
        b: R.Tensor((5,), "float64"),
        m: R.Tensor((5,), "float64"),
        v: R.Tensor((5,), "float64"),
    ):
        return R.nn.batch_norm(x, g, b, m, v, axis=1, momentum=0.3, training=True)

    @R.function
    def batch_norm_unscaled(
        x: R.Tensor((4, 3, 6), "float64"),
        g: R.Tensor((6,), "float64"),
        b: R.Tensor((6,), "float64"),
        m: R.Tensor((6,), "float64"),
        v: R.Tensor((6,), "float64"),
    ):
        return R.nn.batch_norm(x, g, b, m, v, axis=2, center=False, scale=False, training=True)

    @R.function
    def batch_norm(
        x: R.Tensor((4, 5, 3), "float64"),
        g: R.Tensor((5,), "float64"),
        b: R.Tensor((5,), "float64"),
        m: R.Tensor((5,), "float64"),
        v: R.Tensor((5,), "float64"),
    ):
        return R.nn.batch_norm(x, g, b, m, v, axis=1, training=False)

    @R.function
    def mean(x: R.Tensor((3, 7, 8), "float64")):
        return R.mean(x, axis=[1])

    @R.function
    def mean_kept(x: R.Tensor((3, 7, 8), "float64")):
        return R.mean(x, axis=[0, -1], keepdims=True)

    @R.function
    def variance(x: R.Tensor((3, 7, 8), "float64")):
        return R.variance(x, axis=[1])

    @R.function
    def std(x: R.Tensor((3, 7, 8), "float64")):
        return R.std(x, axis=[2])

    @R.function
    def sum(x: R.Tensor((3, 7, 8), "float64")):
        return R.sum(x, axis=[0, 1])

    @R.function
    def max(x: R.Tensor((3, 7, 8), "float64")):
        return R.max(x, axis=[1])

    @R.function
    def max_integer(x: R.Tensor((3, 7), "int32")):
        return R.max(x)

    @R.function
    def min(x: R.Tensor((3, 7, 8), "float64")):
        return R.min(x, axis=[0, 2], keepdims=True)

    @R.function
    def min_unsigned(x: R.Tensor((3, 7), "uint8")):
        return R.min(x, axis=[1])

    @R.function
    def prod(x: R.Tensor((3, 7, 8), "float64")):
        return R.prod(x, axis=[1])

    @R.function
    def prod_integer(x: R.Tensor((3, 7), "int64")):
        return R.prod(x, axis=[1])

    @R.function
    def median(x: R.Tensor((3, 7, 8), "float64")):
        return R.median(x, axis=[1])

    @R.function
    def median_kept(x: R.Tensor((3, 7, 8), "float64")):
        return R.median(x, axis=[-1], keepdims=True)

    @R.function
    def median_of_all(x: R.Tensor((3, 7), "float64")):
        return R.median(x)

    @R.function
    def collapse_sum_to(x: R.Tensor((3, 7, 8), "float64")):
        return R.collapse_sum_to(x, (7, 1))

    @R.function
    def collapse_sum_like(x: R.Tensor((3, 7, 8), "float64"), target: R.Tensor((1, 8), "float64")):
        return R.collapse_sum_like(x, target)


def _arguments() -> dict[str, list]:
    rng = np.random.default_rng(0)
    far = rng.normal(1000, 1, (3, 7, 8))  # a variance of one pass would lose six digits
    negative = -1 - rng.random((3, 7, 8))  # zeros of padding would be the largest
    batch = [rng.normal(3, 2, (4, 5, 3)), *(rng.random(5) + 0.5 for _ in range(4))]
    return {
        "variance": [far],
        "std": [far],
        "max": [negative],
        "min": [-negative],
        "max_integer": [rng.integers(-9, -1, (3, 7)).astype("int32")],
        "min_unsigned": [rng.integers(100, 200, (3, 7)).astype("uint8")],
        "prod": [negative],
        "prod_integer": [rng.integers(1, 4, (3, 7))],
        "batch_norm": batch,
        "batch_norm_training": batch,
    }


ARGUMENTS = _arguments()
MISSING: dict[str, str] = {}

assert isinstance(MODULE, tvm.IRModule)
