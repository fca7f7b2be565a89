"""Operators with indices: reading and writing at them, and those that give them."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .maker import Maker, dtype_of, is_float, shape_of

op = relax.op


def take(m: Maker, x: Any) -> Any:
    """Rows at indices."""
    axis = m.axis(x)
    places = [m.choose([1, 2, 3, 5]) for _ in range(m.integer(1, 2))]
    return op.take(x, indices(m, shape_of(x)[axis], places), axis, mode=m.choose(["clip", "wrap"]))


def gather(m: Maker, x: Any) -> Any:
    """Single elements at indices."""
    shape = shape_of(x)
    axis = m.axis(x)
    if m.integer(0, 2) == 0:
        return op.take(x, op.argmax(_integers(m, shape), axis), axis, mode="clip")
    return op.gather_elements(x, indices(m, shape[axis], [m.integer(1, 4) if d == axis else s for d, s in enumerate(shape)]), axis)


def scatter(m: Maker, x: Any) -> Any:
    """Elements written at indices."""
    shape = shape_of(x)
    axis = m.axis(x)
    at = [m.integer(1, 3) if d == axis else s for d, s in enumerate(shape)]
    how = m.choose(["add", "max", "min", "update"])
    updates = m.like(at, dtype_of(x))
    if how == "update" and at[axis] > 1:
        at[axis], updates = 1, m.like([1 if d == axis else s for d, s in enumerate(shape)], dtype_of(x))
    made = op.scatter_elements(x, indices(m, shape[axis], at), updates, axis, how)
    return made, m.bound(x) + 3 * m.bound(updates)


def written(m: Maker, x: Any) -> Any:
    """A slice written into `x`."""
    shape = shape_of(x)
    axis = m.axis(x)
    begin = m.integer(0, shape[axis] - 1)
    end, stride = m.integer(begin + 1, shape[axis]), m.integer(1, 2)
    part = m.like([-(-(end - begin) // stride) if d == axis else s for d, s in enumerate(shape)], dtype_of(x))
    return op.slice_scatter(x, part, begin, end, stride, axis), m.bound(x, part)


def ordered(m: Maker, x: Any) -> Any:
    """Values in order: of floats too, as they change no more than their arguments."""
    axis, falling = m.axis(x), bool(m.integer(0, 1))
    if m.integer(0, 1):
        return op.sort(x, axis, falling)
    if is_float(x) and hash(x) not in m.exact:  # infinities may have cancelled each other, and no order is defined where NaN is
        x = m.bb.emit(op.where(m.bb.emit(op.isnan(x)), m.number(0, dtype_of(x)), x))
    return op.topk(x, m.integer(1, shape_of(x)[axis]), axis, "values", falling)


def places(m: Maker, x: Any) -> Any:
    """Where the largest stand, or all in order: of what no rounding has touched."""
    if hash(x) not in m.exact:
        return None
    axis, size = m.axis(x), shape_of(x)
    return m.choose(
        [
            lambda: op.argmax(x, axis, bool(m.integer(0, 1))),
            lambda: op.argmin(x, axis, bool(m.integer(0, 1))),
            lambda: op.argsort(x, axis, bool(m.integer(0, 1))),
            lambda: op.topk(x, m.integer(1, size[axis]), axis, m.choose(["both", "indices"])),
        ]
    )(), float(max(size)) + m.bound(x)


def one_hot(m: Maker, x: Any) -> Any:
    """Ones where the integers say."""
    on, off = relax.prim_value(2), relax.prim_value(0)
    return op.one_hot(op.floor_mod(x, m.number(5, dtype_of(x))), on, off, m.integer(3, 6), m.integer(0, x.ty.ndim)), 2.0


def counted(m: Maker, x: Any) -> Any:
    """Which of some ascending numbers comes after."""
    if dtype_of(x) not in ("int32", "int64"):
        return None
    return op.bucketize(x, op.arange(-2, m.integer(0, 6), 1, dtype_of(x)), True, bool(m.integer(0, 1))), 8.0


def table(m: Maker, x: Any) -> Any:
    """Elements of the leading dimensions at tuples of indices."""
    shape = shape_of(x)
    depth = m.integer(1, min(2, len(shape)))
    if m.integer(0, 1):
        return op.index_tensor(x, [indices(m, shape[d], [3], "int64") for d in range(depth)])
    return op.gather_nd(x, indices(m, min(shape[:depth]), [m.integer(1, 4), depth], "int64"))


def _integers(m: Maker, shape: list[int]) -> Any:
    found = m.pick(lambda v: shape_of(v) == shape and dtype_of(v) in ("int32", "int64"))
    return found if found is not None else m.parameter(shape, m.choose(["int32", "int64"]))


def indices(m: Maker, size: int, shape: list[int], dtype: str | None = None) -> Any:
    """Indices below `size`."""
    fits = m.pick(lambda v: shape_of(v) == shape and dtype_of(v) == dtype) if dtype else None
    found = fits if fits is not None else m.parameter(shape, dtype) if dtype else _integers(m, shape)
    assert not is_float(found)
    return op.floor_mod(found, m.number(size, dtype_of(found)))
