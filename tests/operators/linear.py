"""Einsum and outer products, and operators by element that need more than broadcasting."""

import numpy as np
import tvm
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def outer(a: R.Tensor((7,), "float64"), b: R.Tensor((8,), "float64")):
        return R.outer(a, b)

    @R.function
    def einsum_product(a: R.Tensor((5, 7), "float64"), b: R.Tensor((7, 8), "float64")):
        return R.einsum((a, b), "ij,jk->ki")

    @R.function
    def einsum_implicit(a: R.Tensor((4, 6), "float64"), b: R.Tensor((6, 3), "float64")):
        return R.einsum((a, b), "zj, jb")

    @R.function
    def einsum_ellipsis(a: R.Tensor((2, 1, 4, 3), "float64"), b: R.Tensor((5, 3, 6), "float64")):
        return R.einsum((a, b), "...ij,...jk->...ik")

    @R.function
    def einsum_ellipsis_inside(a: R.Tensor((4, 5, 2, 3), "float64"), b: R.Tensor((3,), "float64")):
        return R.einsum((a, b), "b...i,i->...b")

    @R.function
    def einsum_diagonal(a: R.Tensor((4, 4, 6), "float64")):
        return R.einsum((a,), "iik->ik")

    @R.function
    def einsum_of_three(a: R.Tensor((4,), "float64"), b: R.Tensor((4, 5), "float64"), c: R.Tensor((5, 3), "float64")):
        return R.einsum((a, b, c), "i,ij,jk->k")

    @R.function
    def einsum_lonely(a: R.Tensor((4, 5), "float64"), b: R.Tensor((3, 6), "float64")):
        return R.einsum((a, b), "ij,kl->il")

    @R.function
    def einsum_integer(a: R.Tensor((4, 5), "int64"), b: R.Tensor((5,), "int64")):
        return R.einsum((a, b), "ij,j->i")

    @R.function
    def atan2(a: R.Tensor((4, 7), "float64"), b: R.Tensor((7,), "float64")):
        return R.atan2(a, b)

    @R.function
    def selu(a: R.Tensor((4, 7), "float64")):
        return R.nn.selu(a)

    @R.function
    def dropout(a: R.Tensor((4, 7), "float64")):
        return R.nn.dropout(a, rate=0.5)

    @R.function
    def prelu(a: R.Tensor((3, 8, 5), "float64"), b: R.Tensor((8,), "float64")):
        return R.nn.prelu(a, b, axis=1)

    @R.function
    def prelu_of_one(a: R.Tensor((3, 8), "float64"), b: R.Tensor((1,), "float64")):
        return R.nn.prelu(a, b, axis=-1)

    @R.function
    def batch_flatten(a: R.Tensor((4, 3, 8), "float64")):
        return R.nn.batch_flatten(a)

    @R.function
    def quantize(a: R.Tensor((3, 8, 5), "float32"), s: R.Tensor((8,), "float32"), z: R.Tensor((8,), "int8")):
        return R.quantize(a, s, z, axis=1, out_dtype="int8")

    @R.function
    def quantize_constant(a: R.Tensor((3, 8), "float32"), s: R.Tensor((8,), "float32")):
        return R.quantize(a, s, R.const(3, "int8"), axis=-1, out_dtype="uint8")

    @R.function
    def dequantize(a: R.Tensor((3, 7), "int8"), s: R.Tensor((7,), "float32"), z: R.Tensor((1,), "int8")):
        return R.dequantize(a, s, z, axis=-1, out_dtype="float32")

    @R.function
    def dequantize_half(a: R.Tensor((3, 8), "int8"), s: R.Tensor((1,), "float16"), z: R.Tensor((8,), "int8")):
        return R.dequantize(a, s, z, axis=1, out_dtype="float16")


def _arguments() -> dict[str, list]:
    rng = np.random.default_rng(0)
    scale = (rng.random(8) + 0.1).astype("float32")
    return {
        "quantize": [rng.normal(0, 40, (3, 8, 5)).astype("float32"), scale, rng.integers(-9, 9, 8).astype("int8")],
        "quantize_constant": [rng.normal(20, 20, (3, 8)).astype("float32"), scale],
        "dequantize": [rng.integers(-99, 99, (3, 7)).astype("int8"), scale[:7], np.array([5], "int8")],
    }


ARGUMENTS = _arguments()
MISSING: dict[str, str] = {}

assert isinstance(MODULE, tvm.IRModule)
