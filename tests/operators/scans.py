"""Cumulative sums and products."""

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def cumsum(x: R.Tensor((3, 7, 4), "float64")):
        return R.cumsum(x, axis=1)

    @R.function
    def cumsum_exclusive(x: R.Tensor((3, 8), "int64")):
        return R.cumsum(x, axis=-1, exclusive=True)

    @R.function
    def cumsum_first_axis(x: R.Tensor((5, 2), "float64")):
        return R.cumsum(x, axis=0)

    @R.function
    def cumsum_flat(x: R.Tensor((3, 5, 4), "float64")):
        return R.cumsum(x)

    @R.function
    def cumsum_flat_exclusive(x: R.Tensor((6, 5), "int32")):
        return R.cumsum(x, dtype="int64", exclusive=True)

    @R.function
    def cumsum_counts(x: R.Tensor((2, 9), "bool")):
        return R.cumsum(x, axis=1, dtype="int32")

    @R.function
    def cumsum_vector(x: R.Tensor((3,), "float32")):
        return R.cumsum(x, axis=0, dtype="float64")

    @R.function
    def cumprod(x: R.Tensor((3, 7, 4), "float64")):
        return R.cumprod(x, axis=1)

    @R.function
    def cumprod_exclusive(x: R.Tensor((5, 8), "float64")):
        return R.cumprod(x, axis=-2, exclusive=True)

    @R.function
    def cumprod_flat(x: R.Tensor((3, 4), "float64")):
        return R.cumprod(x)

    @R.function
    def cumprod_flat_exclusive(x: R.Tensor((2, 7), "bool")):
        return R.cumprod(x, dtype="int64", exclusive=True)

    @R.function
    def cumprod_int(x: R.Tensor((10,), "int64")):
        return R.cumprod(x, axis=0)


_RNG = np.random.default_rng(0)
ARGUMENTS: dict[str, list] = {
    "cumprod": [_RNG.uniform(0.5, 2, (3, 7, 4))],
    "cumprod_exclusive": [_RNG.uniform(0.5, 2, (5, 8))],
    "cumprod_flat": [_RNG.uniform(0.5, 2, (3, 4))],
    "cumprod_flat_exclusive": [np.arange(14).reshape(2, 7) < 9],
    "cumprod_int": [_RNG.integers(1, 5, 10)],
}
MISSING: dict[str, str] = {}
