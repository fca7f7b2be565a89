"""Buckets, one-hot vectors and samples of distributions."""

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def bucketize(x: R.Tensor((3, 8), "float64"), bounds: R.Tensor((6,), "float64")):
        return R.bucketize(x, bounds, out_int32=False, right=False)

    @R.function
    def bucketize_right(x: R.Tensor((5,), "float32"), bounds: R.Tensor((7,), "float32")):
        return R.bucketize(x, bounds, out_int32=True, right=True)

    @R.function
    def bucketize_int(x: R.Tensor((4, 2), "int32"), bounds: R.Tensor((3,), "int32")):
        return R.bucketize(x, bounds, out_int32=True, right=True)

    @R.function
    def multinomial(chances: R.Tensor((5, 6), "float32"), uniform: R.Tensor((8, 1), "float32"), rows: R.Tensor((8, 1), "int64")):
        return R.multinomial_from_uniform(chances, uniform, rows, dtype="int64")

    @R.function
    def multinomial_of_two(chances: R.Tensor((2, 7), "float32"), uniform: R.Tensor((3, 1), "float32"), rows: R.Tensor((3, 1), "int32")):
        return R.multinomial_from_uniform(chances, uniform, rows, dtype="int32")


def _one_hot(shape: tuple[int, ...], dtype: str, on: float, off: float, kind: str, depth: int, axis: int) -> relax.Function:
    indices = relax.Var("indices", R.Tensor(shape, dtype))
    number = tvm.tirx.FloatImm if kind.startswith("float") else tvm.tirx.IntImm
    builder = relax.BlockBuilder()
    with builder.function("main", [indices]):
        builder.emit_func_output(builder.emit(relax.op.one_hot(indices, number(kind, on), number(kind, off), depth, axis)))
    return builder.get()["main"]


for _name, _function in {
    "one_hot": _one_hot((3, 4), "int64", 1, 0, "int64", 8, -1),
    "one_hot_middle": _one_hot((2, 4), "int32", 2.5, -0.5, "float64", 5, 1),
    "one_hot_first": _one_hot((6,), "uint8", 1.0, 0.0, "float32", 7, 0),
    "one_hot_of_bad": _one_hot((2, 5), "int8", 1, 0, "int32", 3, 2),
}.items():
    MODULE[_name] = _function.with_attr("global_symbol", _name)

_RNG = np.random.default_rng(0)
ARGUMENTS: dict[str, list] = {
    "bucketize": [_RNG.integers(-1, 7, (3, 8)) / 2, np.array([0, 0.5, 1, 2, 2.5, 3])],
    "bucketize_right": [np.array([-1, 0, 2, 7, np.inf], "float32"), np.array([0, 1, 2, 3, 5, 7, 11], "float32")],
    "bucketize_int": [np.array([[0, 1], [2, 3], [4, 5], [2**31 - 1, -(2**31)]], "int32"), np.array([1, 3, 2**31 - 1], "int32")],
    "multinomial": [
        _RNG.dirichlet(np.ones(6), 5).astype("float32"),
        _RNG.uniform(0, 0.999, (8, 1)).astype("float32"),
        np.array([[0], [0], [4], [1], [3], [3], [2], [0]]),
    ],
    "multinomial_of_two": [
        _RNG.dirichlet(np.ones(7), 2).astype("float32"),
        _RNG.uniform(0, 0.999, (3, 1)).astype("float32"),
        np.array([[1], [0], [1]], "int32"),
    ],
    "one_hot": [_RNG.integers(0, 8, (3, 4))],
    "one_hot_middle": [_RNG.integers(0, 5, (2, 4)).astype("int32")],
    "one_hot_first": [np.array([0, 6, 3, 4, 5, 2], "uint8")],
    "one_hot_of_bad": [np.array([[0, -1, 2, 3, 1], [-128, 127, 2, 1, 0]], "int8")],
}
MISSING: dict[str, str] = {}
_UNSORTED = "boundaries must ascend, and a search among others finds anything; tests/test_edge_of_numbers.py has infinite ones in order"
_NO_CHANCES = (
    "NaN is less than nothing and nothing is less than it: no category is chosen, and TVM leaves the element as it finds the memory"
)
SPECIAL: dict[str, str] = {
    "bucketize": _UNSORTED,
    "bucketize_right": _UNSORTED,
    "multinomial": _NO_CHANCES,
    "multinomial_of_two": _NO_CHANCES,
}
"""Function -> why it has no right answer with special numbers in any place."""
