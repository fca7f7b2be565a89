"""Attention over split keys, and over split queries under a causal mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from .context import FormContext, form


@form("attention_queries")
def attention_queries(f: FormContext) -> Any:
    """The mask as a bias: what a worker's first query may see depends on where it stands."""
    query, key, value, *bias = f.args
    dtype = str(query.ty.dtype)
    places = f.along(f.positions(), 4, 2)
    seen = _seen(f, places, relax.const(np.arange(int(key.ty.shape.values[1])), "int64"))
    masked = f.emit(relax.op.where(seen, bias[0] if bias else f.scalar(0, dtype), f.scalar(float("-inf"), dtype)))
    return f.emit(relax.op.nn.attention(query, key, value, masked, f.call.attrs.scale))


@form("attention_keys")
def attention_keys(f: FormContext) -> Any:
    """Each worker weighs its own values by the softmax over all keys: a partial sum."""
    emit, dtype = f.emit, str(f.args[0].ty.dtype)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    query, key, value, *bias = f.args if wide == dtype else [emit(relax.op.astype(x, wide)) for x in f.args]
    scores = emit(relax.op.matmul(_turned(f, query, [0, 2, 1, 3]), _turned(f, key, [0, 2, 3, 1])))
    scale = f.call.attrs.scale
    factor = float(scale.value) if scale is not None else float(int(query.ty.shape.values[3])) ** -0.5
    scores = emit(relax.op.multiply(scores, f.scalar(factor, wide)))
    if bias:
        scores = emit(relax.op.add(scores, bias[0]))
    if f.call.attrs.causal_mask is not None:
        places = emit(relax.op.reshape(relax.const(np.arange(int(query.ty.shape.values[1])), "int64"), [1, 1, -1, 1]))
        scores = emit(relax.op.where(_seen(f, places, f.along(f.positions(), 4, 3)), scores, f.scalar(float("-inf"), wide)))
    scores = f.masked(scores, 3, float("-inf"))
    largest = f.all_reduce(emit(relax.op.max(scores, [3], keepdims=True)), "max")
    powers = emit(relax.op.exp(emit(relax.op.subtract(scores, largest))))
    total = f.all_reduce(emit(relax.op.sum(powers, [3], keepdims=True)), "sum")
    # Nothing times what may stand in padding could still be NaN.
    mine = emit(relax.op.matmul(emit(relax.op.divide(powers, total)), _turned(f, f.masked(value, 1, 0), [0, 2, 1, 3])))
    out = _turned(f, mine, [0, 2, 1, 3])
    return out if wide == dtype else emit(relax.op.astype(out, dtype))


def _turned(f: FormContext, x: Any, axes: list[int]) -> Any:
    return f.emit(relax.op.permute_dims(x, axes))


def _seen(f: FormContext, queries: Any, keys: Any) -> Any:
    """Whether a query, by its place, may look at a key; "BottomRight" shifts by the difference of the lengths, as TVM does."""
    queries_size, keys_size = (f.node.inputs[i].shape[1] or 0 for i in (0, 1))
    offset = abs(queries_size - keys_size) if f.call.attrs.causal_mask == "BottomRight" else 0
    return f.emit(relax.op.less_equal(keys, f.emit(relax.op.add(queries, f.scalar(offset, "int64")))))
