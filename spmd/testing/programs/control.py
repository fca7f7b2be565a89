"""Branches, calls of private functions, and kernels that no operator names."""

from __future__ import annotations

from typing import Any

from tvm import relax, te

from .maker import Maker, dtype_of, is_float, shape_of
from .writes import STORE

op = relax.op


def branch(m: Maker, x: Any) -> Any:
    """One of two, as a number says."""
    condition = m.pick(lambda v: dtype_of(v) == "bool" and v.ty.ndim == 0)
    if condition is None:
        number = m.pick(lambda v: dtype_of(v) == "int32" and shape_of(v) != [])
        total = op.sum(number) if number is not None else m.parameter([], "int32")
        condition = m.bb.emit(op.greater(total, m.number(m.integer(0, 8), "int32")))
        m.read.update({hash(number), hash(condition)})
    weight = m.like([shape_of(x)[-1], shape_of(x)[-1]], m.dtype)
    bound = 2 * m.bound(x) * m.bound(weight) * shape_of(x)[-1]
    return relax.If(condition, op.tanh(op.matmul(x, weight)), m.choose([lambda: op.negative(x), lambda: op.add(x, op.sin(x))])()), bound


def call(m: Maker, x: Any) -> Any:
    """A private function, of `x` where it takes such a value."""
    if not m.helpers:
        return None
    function, params = m.choose(m.helpers)
    read: list[Any] = []

    def given(ty: Any, name: str = "") -> Any:
        if isinstance(ty, relax.TupleType):
            return relax.Tuple([given(field) for field in ty.fields])
        shape, dtype = [int(size) for size in ty.shape.values], str(ty.dtype)
        if name.endswith(STORE):  # which it writes: no constant, and no longer what it was
            read.append(m.know(m.parameter(shape, dtype, STORE), 32.0))
            m.exact.discard(hash(read[-1]))
        else:
            read.append(m.like(shape, dtype))
        return read[-1]

    return function(*[given(p.ty, p.name) for p in params]), max(32.0, m.bound(*read))


def packed(m: Maker, x: Any) -> Any:
    """Values in a tuple within a tuple, bound to a variable of its own."""
    y, z = m.pick(), m.pick()
    return m.choose([relax.Tuple([x, relax.Tuple([y, x])]), relax.Tuple([relax.Tuple([relax.Tuple([z]), y]), x])]), m.bound(x, y, z)


def small_kernel(m: Maker, x: Any) -> Any:
    """A call_tir of a kernel whose sizes and loops are int32, as TVMScript and te make them, beside those of TVM's operators, int64."""
    shape = shape_of(x)
    axis = m.axis(x)
    a = te.placeholder(tuple(shape), dtype_of(x), "a")

    def at(index: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return (*index[:axis], value, *index[axis + 1 :])

    computed = m.choose(
        [
            lambda: te.compute(tuple(shape), lambda *i: a[i] + a[i], "out"),
            lambda: te.compute(tuple(shape[::-1]), lambda *i: a[i[::-1]], "out"),
            lambda: te.compute(at(tuple(shape), 2 * shape[axis]), lambda *i: a[at(i, i[axis] // 2)], "out"),
            lambda: te.compute(tuple(shape), lambda *i: a[at(i, shape[axis] - 1 - i[axis])], "out"),
        ]
    )()
    function = te.create_prim_func([a, computed]).without_attr("global_symbol")
    kernel = m.bb.add_func(function, f"{m.name}_small")
    return op.call_tir(kernel, [x], out_ty=relax.TensorType([int(s) for s in computed.shape], dtype_of(x))), 2 * m.bound(x)


def made_on_the_way(m: Maker, x: Any) -> Any:
    """A product whose right operand such kernels make, with a transpose or arithmetic after them."""
    right, bound = x, m.bound(x)
    for _ in range(m.integer(1, 2)):
        made, bound = small_kernel(m, m.know(right, bound))
        right = m.bb.emit(made)
    right = m.choose([lambda: right, lambda: m.bb.emit(op.permute_dims(right)), lambda: m.bb.emit(op.negative(right))])()
    left = m.like([m.choose([1, 2, 3]), shape_of(right)[-2]], m.dtype) if right.ty.ndim > 1 else m.like([shape_of(right)[0]], m.dtype)
    return op.matmul(left, right), bound * m.bound(left) * max(shape_of(right))


def kernel(m: Maker, x: Any) -> Any:
    """A call_tir: moves, pieces of arithmetic, sums."""
    shape = shape_of(x)
    axis = m.axis(x)
    size, shift = shape[axis], m.integer(1, 3)

    def at(index: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return (*index[:axis], value, *index[axis + 1 :])

    def fold(a: Any) -> Any:
        k = te.reduce_axis((0, size), name="k")
        return te.compute((*shape[:axis], *shape[axis + 1 :]), lambda *i: te.sum(a[(*i[:axis], k, *i[axis:])], axis=k))

    def product(a: Any, b: Any) -> Any:
        k = te.reduce_axis((0, shape[-1]), name="k")
        return te.compute((*shape[:-1], shape[-1] + shift), lambda *i: te.sum(a[(*i[:-1], k)] * b[i[-1], k], axis=k))

    def centered(a: Any) -> Any:
        k = te.reduce_axis((0, shape[-1]), name="k")
        total = te.compute(tuple(shape[:-1]), lambda *i: te.sum(a[(*i, k)], axis=k), name="total")
        return te.compute(tuple(shape), lambda *i: a[i] - total[i[:-1]] / te.const(size, m.dtype), name="centered")

    options: list[Any] = [
        lambda: (_kernel(m, lambda a: te.compute(shape, lambda *i: a[at(i, (i[axis] + shift) % size)]), x), m.bound(x)),
        lambda: (_kernel(m, lambda a: te.compute(shape, lambda *i: a[at(i, size - 1 - i[axis])]), x), m.bound(x)),
        lambda: (_kernel(m, lambda a: te.compute(at(tuple(shape), size * 2), lambda *i: a[at(i, i[axis] // 2)]), x), m.bound(x)),
        lambda: (_kernel(m, lambda a: te.compute(shape, lambda *i: a[i] + a[at(i, te.max(i[axis] - shift, 0))]), x), 2 * m.bound(x)),
        lambda: (_kernel(m, fold, x), size * m.bound(x)),
    ]
    if is_float(x) and len(shape) > 1:
        weight = m.like([shape[-1] + shift, shape[-1]], m.dtype)
        options.append(lambda: (_kernel(m, product, x, weight), m.bound(x) * m.bound(weight) * shape[-1] ** 0.5))
        options.append(lambda: (_kernel(m, centered, x), m.bound(x) * (shape[-1] / size + 1)))
    return m.choose(options)()


def _kernel(m: Maker, compute: Any, *args: Any) -> Any:
    return m.bb.call_te(compute, *args, primfunc_name_hint=f"{m.name}_kernel")
