"""Attention over split keys, and over split queries under a causal mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from .context import FormContext, form


@form("attention_queries")
def attention_queries(f: FormContext) -> Any:
    """All keys are here: which of them a query may see depends on where it stands."""
    query, key, value, *bias = f.args
    seen = _seen(f, f.along(f.positions(), 4, 2), relax.const(np.arange(int(key.ty.shape.values[1])), "int64"))
    scores = _scores(f, query, key, bias, seen)
    powers = _powers(f, scores, f.emit(relax.op.max(scores, [3], keepdims=True)), seen)
    total = f.emit(relax.op.sum(powers, [3], keepdims=True))
    return _weighed(f, powers, total, value)


@form("attention_keys")
def attention_keys(f: FormContext) -> Any:
    """Each worker weighs its own values by the softmax over all keys: a partial sum."""
    emit, dtype = f.emit, str(f.args[0].ty.dtype)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    query, key, value, *bias = f.args if wide == dtype else [emit(relax.op.astype(x, wide)) for x in f.args]
    seen = None
    if f.call.attrs.causal_mask is not None:
        places = emit(relax.op.reshape(relax.const(np.arange(int(query.ty.shape.values[1])), "int64"), [1, 1, -1, 1]))
        seen = _seen(f, places, f.along(f.positions(), 4, 3))
    scores = f.masked(_scores(f, query, key, bias, seen), 3, float("-inf"))
    largest = f.all_reduce(emit(relax.op.max(scores, [3], keepdims=True)), "max")
    powers = _powers(f, scores, largest, seen)
    total = f.all_reduce(emit(relax.op.sum(powers, [3], keepdims=True)), "sum")
    # Nothing times what may stand in padding could still be NaN.
    out = _weighed(f, powers, total, f.masked(value, 1, 0))
    return out if wide == dtype else emit(relax.op.astype(out, dtype))


def _scores(f: FormContext, query: Any, key: Any, bias: list[Any], seen: Any) -> Any:
    """``b h s t``. What is not `seen` is zero, as in TVM, and counts in the largest score."""
    emit, dtype, scale = f.emit, str(query.ty.dtype), f.call.attrs.scale
    scores = emit(relax.op.matmul(_turned(f, query, [0, 2, 1, 3]), _turned(f, key, [0, 2, 3, 1])))
    if scale is None:
        root = float(int(query.ty.shape.values[3])) ** 0.5
        scores = emit(relax.op.divide(scores, f.scalar(root, dtype)))
    else:
        scores = emit(relax.op.multiply(scores, f.scalar(float(scale.value), dtype)))
    if bias:
        scores = emit(relax.op.add(scores, bias[0]))
    return scores if seen is None else emit(relax.op.where(seen, scores, f.scalar(0, dtype)))


def _powers(f: FormContext, scores: Any, largest: Any, seen: Any) -> Any:
    powers = f.emit(relax.op.exp(f.emit(relax.op.subtract(scores, largest))))
    return powers if seen is None else f.emit(relax.op.where(seen, powers, f.scalar(0, str(powers.ty.dtype))))


def _weighed(f: FormContext, powers: Any, total: Any, value: Any) -> Any:
    """The values, ``b s h e``, weighed by powers that add up to `total`."""
    weights = f.emit(relax.op.divide(powers, total))
    return _turned(f, f.emit(relax.op.matmul(weights, _turned(f, value, [0, 2, 1, 3]))), [0, 2, 1, 3])


def _turned(f: FormContext, x: Any, axes: list[int]) -> Any:
    return f.emit(relax.op.permute_dims(x, axes))


def _seen(f: FormContext, queries: Any, keys: Any) -> Any:
    """Whether a query, by its place, may look at a key; "BottomRight" shifts by the difference of the lengths, as TVM does."""
    queries_size, keys_size = (f.node.inputs[i].shape[1] or 0 for i in (0, 1))
    offset = abs(queries_size - keys_size) if f.call.attrs.causal_mask == "BottomRight" else 0
    return f.emit(relax.op.less_equal(keys, f.emit(relax.op.add(queries, f.scalar(offset, "int64")))))
