"""Attention: batch, heads, queries, keys and output channels; masks and biases."""

import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T


@I.ir_module
class MODULE:
    @R.function
    def plain(q: R.Tensor((2, 5, 4, 8), "float64"), k: R.Tensor((2, 7, 4, 8), "float64"), v: R.Tensor((2, 7, 4, 6), "float64")):
        return R.nn.attention(q, k, v)

    @R.function
    def scaled(q: R.Tensor((1, 6, 3, 4), "float64"), k: R.Tensor((1, 8, 3, 4), "float64"), v: R.Tensor((1, 8, 3, 4), "float64")):
        return R.nn.attention(q, k, v, scale=T.FloatImm("float64", 0.3))

    @R.function
    def half(q: R.Tensor((1, 4, 2, 4), "float16"), k: R.Tensor((1, 8, 2, 4), "float16"), v: R.Tensor((1, 8, 2, 4), "float16")):
        return R.nn.attention(q, k, v)

    @R.function
    def causal(q: R.Tensor((1, 7, 2, 4), "float64"), k: R.Tensor((1, 7, 2, 4), "float64"), v: R.Tensor((1, 7, 2, 4), "float64")):
        return R.nn.attention(q, k, v, causal_mask="TopLeft")

    @R.function
    def causal_last(q: R.Tensor((1, 5, 2, 4), "float64"), k: R.Tensor((1, 8, 2, 4), "float64"), v: R.Tensor((1, 8, 2, 4), "float64")):
        return R.nn.attention(q, k, v, causal_mask="BottomRight")

    @R.function
    def bias(
        q: R.Tensor((2, 5, 4, 4), "float64"),
        k: R.Tensor((2, 8, 4, 4), "float64"),
        v: R.Tensor((2, 8, 4, 4), "float64"),
        b: R.Tensor((2, 4, 5, 8), "float64"),
    ):
        return R.nn.attention_bias(q, k, v, b)

    @R.function
    def bias_broadcast(
        q: R.Tensor((2, 5, 4, 4), "float64"),
        k: R.Tensor((2, 7, 4, 4), "float64"),
        v: R.Tensor((2, 7, 4, 4), "float64"),
        b: R.Tensor((1, 4, 1, 7), "float64"),
    ):
        return R.nn.attention_bias(q, k, v, b)

    @R.function
    def bias_causal(
        q: R.Tensor((2, 8, 1, 4), "float64"),
        k: R.Tensor((2, 7, 1, 4), "float64"),
        v: R.Tensor((2, 7, 1, 4), "float64"),
        b: R.Tensor((2, 1, 8, 7), "float64"),
    ):
        return R.nn.attention_bias(q, k, v, b, causal_mask="TopLeft")


ARGUMENTS: dict[str, list] = {}
MISSING: dict[str, str] = {}

assert isinstance(MODULE, tvm.IRModule)
