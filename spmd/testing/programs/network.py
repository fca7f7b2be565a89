"""What networks are made of: products, convolutions, pooling, attention, losses. Each reads floats."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from spmd.ir.lift import LIFT

from .maker import SIZES, Maker, dtype_of, shape_of

op = relax.op


def matmul(m: Maker, x: Any) -> Any:
    """A product with a matrix, a batch of them, or a vector."""
    shape = shape_of(x)
    k = shape[-1]
    if not isinstance(k, int):
        return None
    other = m.pick(lambda v: _is(m, v, 2) and shape_of(v)[0] == k)
    if other is None or m.integer(0, 2):
        batch = [s for s in shape[:-2] if isinstance(s, int)] if m.integer(0, 3) == 0 and len(shape) > 2 else []
        batch = batch if len(batch) == len(shape) - 2 else []
        other = m.parameter([*batch, k, m.choose(SIZES)] if m.integer(0, 5) else [k], m.dtype)
    return op.matmul(x, other), m.bound(x) * m.bound(other) * k**0.5


def scores(m: Maker, x: Any) -> Any:
    """The products of all rows of each matrix of a batch."""
    order = list(range(x.ty.ndim))
    other = m.bb.emit(op.permute_dims(x, [*order[:-2], order[-1], order[-2]]))
    return op.matmul(x, other), m.bound(x) ** 2 * 16


def contraction(m: Maker, x: Any) -> Any:
    """Sums that einsum, outer and linear name."""
    shape = shape_of(x)
    if len(shape) == 1:
        other = m.pick(lambda v: _is(m, v, 1))
        return op.outer(x, other), m.bound(x) * m.bound(other)
    if len(shape) == 2:
        text, other = m.choose(
            [
                ("ab,cb->ac", [m.choose(SIZES), shape[1]]),
                ("ab,cb->ca", [m.choose(SIZES), shape[1]]),
                ("ab,ac->cb", [shape[0], m.choose(SIZES)]),
                ("ab,ab->a", shape),
                ("ab,ba->", shape[::-1]),
            ]
        )
    elif len(shape) == 3:
        text, other = m.choose(
            [
                ("abc,cd->abd", [shape[2], m.choose(SIZES)]),
                ("abc,acd->abd", [shape[0], shape[2], m.choose(SIZES)]),
                ("abc,dbc->ad", [m.choose(SIZES), *shape[1:]]),
                ("abc,adc->abd", [shape[0], m.choose(SIZES), shape[2]]),
            ]
        )
    else:
        return op.linear(x, m.like([m.choose(SIZES), shape[-1]], m.dtype)), m.bound(x) * 4 * shape[-1] ** 0.5
    right = m.like(other, m.dtype)
    return op.einsum((x, right), text), m.bound(x) * m.bound(right) * max(shape) ** 0.5


def convolution(m: Maker, x: Any) -> Any:
    """One or two dimensions, with strides, dilation, padding and groups."""
    n = x.ty.ndim - 2
    _, channels, *space = shape_of(x)
    if n not in (1, 2):
        return None
    groups = m.choose([g for g in (1, channels) if channels % g == 0])
    kernel = [m.integer(1, 3) for _ in space]
    strides, dilation = [m.integer(1, 2) for _ in space], [m.integer(1, 2) for _ in space]
    padding = [m.integer(0, k - 1) for k in kernel]
    if any(s + 2 * p < d * (k - 1) + 1 for s, p, d, k in zip(space, padding, dilation, kernel, strict=True)):
        return None
    weight = m.like([groups * m.integer(1, 3), channels // groups, *kernel], m.dtype)
    call = op.nn.conv1d if n == 1 else op.nn.conv2d
    made = call(x, weight, strides, padding, dilation, groups)
    return made, m.bound(x) * m.bound(weight) * (channels // groups * kernel[0] * kernel[-1]) ** 0.5


def pooling(m: Maker, x: Any) -> Any:
    """The mean or the largest of windows."""
    n = x.ty.ndim - 2
    space = shape_of(x)[2:]
    if n not in (1, 2):
        return None
    size = [m.integer(1, min(3, s)) for s in space]
    strides = [m.integer(1, 2) for _ in space]
    padding = [m.integer(0, (k - 1) // 2) for k in size]
    largest, mean = (op.nn.max_pool1d, op.nn.avg_pool1d) if n == 1 else (op.nn.max_pool2d, op.nn.avg_pool2d)
    options = [
        lambda: largest(x, size, strides, padding),
        lambda: mean(x, size, strides, padding, count_include_pad=bool(m.integer(0, 1))),
        lambda: mean(x, size, strides, padding, ceil_mode=True),
    ]
    if n == 2:
        options.append(lambda: op.nn.adaptive_avg_pool2d(x, [m.integer(1, s) for s in space]))
    return m.choose(options)()


def attention(m: Maker, x: Any) -> Any:
    """Attention of sequence x heads x size, by one operator."""
    if x.ty.ndim != 4:
        return None
    batch, _, heads, size = shape_of(x)
    other = m.like([batch, m.choose([3, 5, 8]), heads, size], m.dtype)
    return op.nn.attention(x, other, other, causal_mask=m.choose([None, "TopLeft", "BottomRight"])), m.bound(other)


def attention_by_parts(m: Maker, x: Any) -> Any:
    """Attention to a few keys, by products and a softmax."""
    keys = m.like([m.choose([3, 5, 8]), shape_of(x)[-1]], m.dtype)
    scores = op.nn.softmax(op.matmul(x, op.permute_dims(keys)), -1)
    return op.matmul(scores, keys), m.bound(keys)


def loss(m: Maker, x: Any) -> Any:
    """How far from what was wanted."""
    if x.ty.ndim != 2:
        return None
    rows, classes = shape_of(x)
    if m.integer(0, 1):
        return op.nn.cross_entropy_with_logits(op.nn.log_softmax(x), m.like([rows, classes], m.dtype)), 32.0
    targets = op.floor_mod(m.parameter([rows], "int32"), m.number(classes, "int32"))
    scores = op.nn.log_softmax(x)
    weights = op.abs(m.like([classes], m.dtype)) if m.integer(0, 1) else None
    if weights is not None:
        weights = op.add(weights, m.number(1))
    return op.nn.nll_loss(scores, targets, weights, m.choose(["mean", "sum", "none"])), 32.0


def layer(m: Maker, x: Any) -> Any:
    """A gated layer with what went in added at its end."""
    k = shape_of(x)[-1]
    if not isinstance(k, int) or x.ty.ndim < 2:
        return None
    width = m.choose([4, 6, 8])
    if m.integer(0, 1):
        both = m.bb.emit(op.split(op.matmul(x, m.parameter([k, 2 * width], m.dtype)), 2, -1))
        up, gate = both[0], both[1]
    else:
        up, gate = (op.matmul(x, m.parameter([k, width], m.dtype)) for _ in range(2))
    down = op.matmul(op.multiply(op.nn.silu(gate), op.tanh(up)), m.parameter([width, k], m.dtype))
    return op.add(op.tanh(down), x), m.bound(x) + 1


def frozen(m: Maker, x: Any) -> Any:
    """A layer of two matrices, or one, that are constants as large as those of models: they become weights."""
    k = shape_of(x)[-1]
    if m.constants is None or not isinstance(k, int):
        return None
    width = -(-LIFT // (k * tvm.DataType(m.dtype).bits // 8)) + m.integer(0, 2)
    into = m.constant([k, width], m.dtype)
    inside = op.tanh(op.matmul(x, into))
    if m.integer(0, 3) == 0:
        return inside, 1.0
    out = m.constant([width, k], m.dtype) if m.integer(0, 1) else op.permute_dims(into)
    return op.tanh(op.divide(op.matmul(inside, out), m.number(width))), 1.0


def _is(m: Maker, value: Any, rank: int) -> bool:
    return value.ty.ndim == rank and dtype_of(value) == m.dtype
