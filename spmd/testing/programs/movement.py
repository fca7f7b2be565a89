"""Operators that move, make and arrange elements."""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import relax

from .maker import SIZES, Maker, dtype_of, is_float, shape_of

op = relax.op


def reshape(m: Maker, x: Any) -> Any:
    """Merge two dimensions, split one, or flatten."""
    shape = shape_of(x)
    at = m.integer(0, len(shape) - 1)
    how = m.integer(0, 4)
    if how == 0:
        return op.flatten(x)
    if how <= 2 and at + 1 < len(shape):
        return op.reshape(x, [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]])
    major = m.choose([d for d in range(1, shape[at] + 1) if shape[at] % d == 0])
    return op.reshape(x, [*shape[:at], major, shape[at] // major, *shape[at + 1 :]])


def merged(m: Maker, x: Any) -> Any:
    """Two dimensions merged, or one taken apart, where sizes are symbolic."""
    dims = list(x.ty.shape.values)
    at = m.integer(0, len(dims) - 1)
    size = dims[at]
    if isinstance(size, tvm.tirx.Mul) and m.integer(0, 2):
        dims[at : at + 1] = [size.a, size.b]
    elif isinstance(size, tvm.tirx.IntImm) and m.integer(0, 1):
        major = m.choose([d for d in range(1, size.value + 1) if size.value % d == 0])
        dims[at : at + 1] = [major, size.value // major]
    elif at + 1 < len(dims):
        dims[at : at + 2] = [tvm.sym.Analyzer().simplify(size * dims[at + 1])]
    else:
        return None
    return op.reshape(x, relax.ShapeExpr(dims))


def permute(m: Maker, x: Any) -> Any:
    """Any order of the dimensions."""
    return op.permute_dims(x, m.dice.sample(range(x.ty.ndim), x.ty.ndim))


def ones(m: Maker, x: Any) -> Any:
    """A dimension of size 1 more, or less."""
    single = [d for d, size in enumerate(shape_of(x)) if size == 1]
    if single and m.integer(0, 1):
        return op.squeeze(x, [m.choose(single)])
    return op.expand_dims(x, [m.integer(0, x.ty.ndim)])


def split(m: Maker, x: Any) -> Any:
    """A split in two or three parts, equal or not."""
    axis = m.axis(x)
    size = shape_of(x)[axis]
    if size < 2:
        return None
    equal = [n for n in (2, 3, 4) if size % n == 0]
    if equal and m.integer(0, 1):
        return op.split(x, m.choose(equal), axis)
    return op.split(x, sorted({m.integer(1, size - 1) for _ in range(m.integer(1, 2))}), axis)


def join(m: Maker, x: Any) -> Any:
    """Two or three values, end to end or side by side."""
    shape, dtype = shape_of(x), dtype_of(x)
    if m.integer(0, 3) == 0:
        same = m.pick(lambda v: shape_of(v) == shape and dtype_of(v) == dtype)
        return op.stack([x, same], m.integer(0, len(shape))), m.bound(x, same)
    axis = m.axis(x)

    def fits(v: Any) -> bool:
        other = shape_of(v)
        return (
            dtype_of(v) == dtype
            and len(other) == len(shape)
            and all(a == b for d, (a, b) in enumerate(zip(shape, other, strict=True)) if d != axis)
        )

    return op.concat([x, *(m.pick(lambda v: fits(v) and isinstance(shape_of(v)[axis], int)) for _ in range(m.integer(1, 2)))], axis)


def window(m: Maker, x: Any) -> Any:
    """A slice, also a strided or a backward one."""
    axes = sorted({m.axis(x) for _ in range(m.integer(1, 2))})
    begins, ends, strides = [], [], []
    for axis in axes:
        size = shape_of(x)[axis]
        first = m.integer(0, size - 1)
        if m.integer(0, 3) == 0:
            low = m.integer(-1, first - 1) if first else -1
            begins, ends, strides = [*begins, first], [*ends, low if low >= 0 else -size - 1], [*strides, -m.integer(1, 3)]
        else:
            begins, ends, strides = [*begins, first], [*ends, m.integer(first + 1, size)], [*strides, m.integer(1, 3)]
    return op.strided_slice(x, axes, begins, ends, strides)


def roll(m: Maker, x: Any) -> Any:
    """The first elements to the end."""
    axis = m.axis(x)
    size = shape_of(x)[axis]
    if size < 2:
        return None
    cut = m.integer(1, size - 1)
    return op.concat([op.strided_slice(x, [axis], [cut], [size]), op.strided_slice(x, [axis], [0], [cut])], axis)


def moved(m: Maker, x: Any) -> Any:
    """Mirrored, repeated, tiled, padded, broadcast."""
    axis = m.axis(x)
    shape = shape_of(x)
    options = [
        lambda: op.flip(x, axis),
        lambda: op.repeat(x, m.integer(2, 3), axis),
        lambda: op.tile(x, [2 if d == axis else 1 for d in range(len(shape))]),
        lambda: op.broadcast_to(x, [m.choose([2, 3]), *(m.choose(SIZES) if s == 1 else s for s in shape)]),
    ]
    if dtype_of(x) != "bool":
        edges = [n for d in range(len(shape)) for n in ((m.integer(0, 2), m.integer(0, 2)) if d == axis else (0, 0))]
        mode = m.choose(["constant", "reflect", "replicate", "circular"])
        most = max(edges)
        if mode == "constant" or most < shape[axis]:
            options.append(lambda: op.nn.pad(x, edges, pad_mode=mode))
    return m.choose(options)()


def triangle(m: Maker, x: Any) -> Any:
    """The lower or the upper triangle."""
    return m.choose([op.tril, op.triu])(x, m.integer(-1, 2))


def create(m: Maker, x: Any) -> Any:
    """Something new with `x`: an operator that reads nothing, and one that adds the two."""
    shape, dtype = shape_of(x), dtype_of(x)
    made = m.choose(
        [
            lambda: op.full(shape, m.number(2, dtype), dtype),
            lambda: op.zeros(shape, dtype),
            lambda: op.ones_like(x),
            lambda: op.full_like(x, m.number(-1, dtype)),
            lambda: op.reshape(op.arange(0, math.prod(shape), 1, dtype), shape),
            lambda: op.eye(shape[-2], shape[-1], m.integer(-1, 1), dtype) if len(shape) > 1 else op.ones(shape, dtype),
        ]
    )()
    made = m.know(m.bb.emit(made), float(math.prod(shape)), exact=True)
    m.values.append(made)
    return m.choose([op.add, op.maximum] if is_float(x) else [op.add, op.subtract])(x, made), m.bound(x) + m.bound(made)
