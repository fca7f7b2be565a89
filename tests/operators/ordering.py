"""The largest, the k largest, all in order: few different numbers, so that ties are everywhere."""

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R


@I.ir_module
class MODULE:
    @R.function
    def argmax(x: R.Tensor((3, 7, 4), "float64")):
        return R.argmax(x, axis=1)

    @R.function
    def argmax_keepdims(x: R.Tensor((3, 8), "int32")):
        return R.argmax(x, axis=-1, keepdims=True)

    @R.function
    def argmax_flat(x: R.Tensor((3, 5, 4), "float32")):
        return R.argmax(x)

    @R.function
    def argmax_flat_keepdims(x: R.Tensor((6, 5), "float64")):
        return R.argmax(x, keepdims=True)

    @R.function
    def argmax_of_masked(x: R.Tensor((3, 9), "float64")):
        return R.argmax(x, axis=1)

    @R.function
    def argmin(x: R.Tensor((5, 6), "float16")):
        return R.argmin(x, axis=0)

    @R.function
    def argmin_bytes(x: R.Tensor((3, 7), "uint8")):
        return R.argmin(x, axis=1, keepdims=True)

    @R.function
    def argmin_flat(x: R.Tensor((2, 7), "int64")):
        return R.argmin(x)

    @R.function
    def topk(x: R.Tensor((3, 10), "float64")):
        return R.topk(x, k=3, axis=1, ret_type="both", largest=True, dtype="int32")

    @R.function
    def topk_smallest(x: R.Tensor((11, 4), "int32")):
        return R.topk(x, k=4, axis=0, ret_type="both", largest=False, dtype="int64")

    @R.function
    def topk_values(x: R.Tensor((2, 12, 3), "float64")):
        return R.topk(x, k=2, axis=-2, ret_type="values", largest=True)

    @R.function
    def topk_indices(x: R.Tensor((3, 8), "float32")):
        return R.topk(x, k=1, axis=-1, ret_type="indices", largest=False, dtype="float32")

    @R.function
    def topk_most(x: R.Tensor((3, 5), "float64")):
        return R.topk(x, k=4, axis=-1, ret_type="both", largest=True, dtype="int64")

    @R.function
    def topk_of_masked(x: R.Tensor((2, 5), "float64")):
        return R.topk(x, k=3, axis=-1, ret_type="both", largest=True, dtype="int32")

    @R.function
    def topk_all(x: R.Tensor((3, 5), "float64")):
        return R.topk(x, k=0, axis=1, ret_type="both", largest=True)

    @R.function
    def sort(x: R.Tensor((3, 7, 4), "float64")):
        return R.sort(x, axis=1, descending=False)

    @R.function
    def sort_descending(x: R.Tensor((5, 8), "int32")):
        return R.sort(x, axis=-1, descending=True)

    @R.function
    def argsort(x: R.Tensor((7, 4), "float32")):
        return R.argsort(x, axis=0, descending=False, dtype="int64")

    @R.function
    def argsort_descending(x: R.Tensor((3, 8), "int64")):
        return R.argsort(x, axis=-1, descending=True, dtype="int32")

    @R.function
    def reverse_sequence(x: R.Tensor((3, 7, 4), "float64"), n: R.Tensor((3,), "int32")):
        return R.reverse_sequence(x, n, seq_axis=1, batch_axis=0)

    @R.function
    def reverse_sequence_batch_last(x: R.Tensor((8, 5), "float64"), n: R.Tensor((5,), "int64")):
        return R.reverse_sequence(x, n, seq_axis=0, batch_axis=1)

    @R.function
    def nonzero(x: R.Tensor((8, 3), "bool")):
        return R.nonzero(x)

    @R.function
    def unique(x: R.Tensor((4, 6), "int64")):
        return R.unique(x, R.prim_value(True), R.prim_value(False), R.prim_value(False), R.prim_value(False))

    @R.function
    def unique_rows(x: R.Tensor((4, 2), "float64")):
        return R.unique(x, R.prim_value(True), R.prim_value(True), R.prim_value(False), R.prim_value(True), axis=R.prim_value(0))


def _ties(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(-2, 3, shape).astype(dtype)


_MASKED = np.full((3, 9), -np.inf)
_MASKED[1, 5:] = 0.5
"""A row of nothing, one that starts late, one of the smallest number that there is."""
_MASKED[2] = np.finfo("float64").min
ARGUMENTS: dict[str, list] = {
    "argmax": [_ties((3, 7, 4), "float64")],
    "argmax_flat": [_ties((3, 5, 4), "float32")],
    "argmax_flat_keepdims": [_ties((6, 5), "float64")],
    "argmax_of_masked": [_MASKED],
    "argmin": [_ties((5, 6), "float16")],
    "argmin_flat": [_ties((2, 7), "int64")],
    "topk": [_ties((3, 10), "float64")],
    "topk_smallest": [_ties((11, 4), "int32")],
    "topk_values": [_ties((2, 12, 3), "float64")],
    "topk_indices": [_ties((3, 8), "float32")],
    "topk_most": [_ties((3, 5), "float64")],
    "topk_of_masked": [np.array([[-np.inf] * 4 + [1.0], [-np.inf] * 5])],
    "topk_all": [_ties((3, 5), "float64")],
    "unique": [(np.arange(24) * 7 % 24).reshape(4, 6) // 2],
    "unique_rows": [np.array([[1.0, 2.0], [0.0, 5.0], [1.0, 2.0], [0.0, 3.0]])],
    "reverse_sequence": [np.random.default_rng(0).normal(size=(3, 7, 4)), np.array([5, 0, 7], "int32")],
    "reverse_sequence_batch_last": [np.random.default_rng(0).normal(size=(8, 5)), np.array([8, 1, 9, 3, 4])],
}
MISSING: dict[str, str] = {}
NAN: dict[str, str] = dict.fromkeys(
    ("topk", "topk_values", "topk_indices", "topk_most", "topk_of_masked"),
    "TVM sorts by comparisons that NaN makes contradict each other: where it and its neighbours land hangs on the length of what is sorted",
)
"""Function -> why it has no right answer where there is NaN."""
