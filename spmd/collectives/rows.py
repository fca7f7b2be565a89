"""Collectives as libraries have them: along the first dimension, of types that can be added up. What is around that is Relax.

Libraries such as MPI and NCCL know no dimensions: they move memory, of which each worker has one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx

from spmd.errors import ShardingError

Expr = Any  # relax.Expr: TVM ships no types
Attrs = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is to be carried: an operation on a tensor, along the first dimension."""

    operation: str
    x: Expr
    attrs: Attrs


_Form = Generator[Asked, Expr, Expr]
"""Writes what goes before, asks once, is sent what came, and returns the value that is wanted."""

_WIDE = {
    **dict.fromkeys(("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"), "float32"),
    **{"int16": "int32", "uint16": "uint32"},
}
"""Types that are reduced in a wider one, and rounded or cut once: floats for their precision, integers as NCCL has none of 16 bits."""
_ORDERED = {"float32": "int32", "float64": "int64"}
"""Floats whose largest and smallest are found among whole numbers of the same order: libraries and processors differ in what a NaN is
beside a number. Here it is more than any where the largest is asked for, and less than any where the smallest is: it stays, as in NumPy.
"""
_REDUCED = {"bool", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 32, 64))}


def by_rows(
    builder: Any, operation: str, xs: Sequence[Expr], each: Sequence[Attrs], carry: Callable[[list[Asked]], list[Expr]]
) -> list[Expr]:
    """`operation` on each of `xs`, with the attributes of each, carried along the first dimension: `carry` is asked once, for all."""
    forms = [_form(builder, operation, x, attrs) for x, attrs in zip(xs, each, strict=True)]
    came = carry([next(form) for form in forms])
    return [_ended(form, y) for form, y in zip(forms, came, strict=True)]


def _form(builder: Any, operation: str, x: Expr, attrs: Attrs) -> _Form:
    """How rows are made of `x`. Nothing moves where it has no elements, and every dimension is as good."""
    empty = any(_is(size, 0) for size in _sizes(x))
    return (_as_it_is(operation) if empty else _FORMS[operation])(Writer(builder), x, attrs)


def _ended(form: _Form, came: Expr) -> Expr:
    try:
        form.send(came)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a form asks once")


class Writer:
    """Writes moves of dimensions, and none that move nothing."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def emit(self, expr: Expr) -> Expr:
        """The variable that holds it."""
        return self.builder.emit(self.builder.normalize(expr))

    def elementwise(self, name: str, x: Expr, function: Callable[[Expr], Expr]) -> Expr:
        """What a function of TIR gives for each element."""
        return self.builder.emit_te(lambda t: te.compute(t.shape, lambda *i: function(t(*i)), name), x, primfunc_name_hint=name)

    def reshaped(self, x: Expr, sizes: Sequence[Any]) -> Expr:
        """`x` in these sizes."""
        same = len(sizes) == len(_sizes(x)) and all(tvm.sym.Analyzer().can_prove_equal(a, b) for a, b in zip(sizes, _sizes(x), strict=True))
        return x if same else self.emit(relax.op.reshape(x, list(sizes)))

    def moved(self, x: Expr, source: int, target: int) -> Expr:
        """`x` with dimension `source` at `target`."""
        order = [dim for dim in range(len(_sizes(x))) if dim != source]
        order.insert(target, source)
        between = _sizes(x)[min(source, target) : max(source, target) + 1]
        passed = between[:-1] if source > target else between[1:]
        if all(_is(size, 1) for size in passed):  # in memory nothing moves
            return self.reshaped(x, [_sizes(x)[dim] for dim in order])
        return self.emit(relax.op.permute_dims(x, order))

    def parts_first(self, x: Expr, dim: int, workers: int) -> tuple[Expr, list[Any]]:
        """The `workers` parts of `dim` one after the other along the first dimension, and the sizes of a part."""
        sizes = _sizes(x)
        if isinstance(sizes[dim], int) and sizes[dim] % workers:
            raise ShardingError("R.spmd", f"dimension {dim} has size {sizes[dim]}, which {workers} workers do not divide")
        part = [_divided(s, workers) if i == dim else s for i, s in enumerate(sizes)]
        apart = self.reshaped(x, [*part[:dim], workers, *part[dim:]])
        return self.reshaped(self.moved(apart, dim, 0), _times(part, 0, workers)), part

    def parts_at(self, x: Expr, part: list[Any], dim: int, workers: int) -> Expr:
        """What lies in parts along the first dimension, joined along `dim`."""
        apart = self.reshaped(x, [workers, *part])
        return self.reshaped(self.moved(apart, 0, dim), _times(part, dim, workers))


def _all_reduce(write: Writer, x: Expr, attrs: Attrs) -> _Form:
    return (yield from _reduced(write, "all_reduce", x, attrs))


def _all_gather(write: Writer, x: Expr, attrs: Attrs) -> _Form:
    y = yield Asked("all_gather", x, {**attrs, "dim": 0})
    return write.parts_at(y, _sizes(x), attrs["dim"], attrs["workers"]) if attrs["dim"] else y


def _reduce_scatter(write: Writer, x: Expr, attrs: Attrs) -> _Form:
    first = write.parts_first(x, attrs["dim"], attrs["workers"])[0] if attrs["dim"] else x
    return (yield from _reduced(write, "reduce_scatter", first, {**attrs, "dim": 0}))


def _all_to_all(write: Writer, x: Expr, attrs: Attrs) -> _Form:
    first, part = write.parts_first(x, attrs["split_dim"], attrs["workers"])
    y = yield Asked("all_to_all", first, {**attrs, "split_dim": 0, "concat_dim": 0})
    return write.parts_at(y, part, attrs["concat_dim"], attrs["workers"])


def _as_it_is(operation: str) -> Callable[[Writer, Expr, Attrs], _Form]:
    def form(write: Writer, x: Expr, attrs: Attrs) -> _Form:
        return (yield Asked(operation, x, attrs))

    return form


_FORMS: dict[str, Callable[[Writer, Expr, Attrs], _Form]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "permute": _as_it_is("permute"),
    "broadcast": _as_it_is("broadcast"),
}


def _reduced(write: Writer, operation: str, x: Expr, attrs: Attrs) -> _Form:
    """A reduction, in a type that a library can reduce."""
    dtype, kind = str(x.ty.dtype), attrs["kind"]
    wide = _WIDE.get(dtype, dtype)
    if wide not in _REDUCED:
        what = f"this backend cannot reduce {dtype}"
        raise ShardingError(f"R.spmd.{operation} of {attrs['value']!r}", what, "Reduce it as float32, or run on threads.")
    x = x if wide == dtype else write.emit(relax.op.astype(x, wide))
    if kind in ("max", "min") and wide in _ORDERED:
        y = yield Asked(operation, write.elementwise("ordered", x, lambda value: _number(value, wide, kind)), attrs)
        y = write.elementwise("of_order", y, lambda value: tirx.reinterpret(wide, _turned(value, _ORDERED[wide])))
    else:
        y = yield Asked(operation, x, attrs)
    return y if wide == dtype else write.emit(relax.op.astype(y, dtype))


def _number(value: Expr, dtype: str, kind: str) -> Expr:
    """The whole number of a float, in the order of floats; beyond infinity, in the direction that is asked for, where it is NaN."""
    whole = _ORDERED[dtype]
    beyond = int(np.array(np.nan if kind == "max" else -np.nan, dtype).view(whole))
    return _turned(tirx.Select(tirx.isnan(value), tirx.const(beyond, whole), tirx.reinterpret(whole, value)), whole)


def _turned(bits: Expr, dtype: str) -> Expr:
    """The bits of a float as a number of their order, and the number as the bits: of negative ones all but the sign are turned over."""
    sign = tirx.const(8 * tvm.DataType(dtype).itemsize - 1, dtype)
    return bits ^ ((bits >> sign) & tirx.max_value(dtype))


def _sizes(x: Expr) -> list[Any]:
    return [int(s) if isinstance(s, tvm.tirx.IntImm) else s for s in x.ty.shape.values]


def _is(size: Any, number: int) -> bool:
    return isinstance(size, int) and size == number


def _times(sizes: Sequence[Any], dim: int, workers: int) -> list[Any]:
    return [
        tvm.sym.Analyzer().simplify(s * workers) if i == dim and not isinstance(s, int) else s * workers if i == dim else s
        for i, s in enumerate(sizes)
    ]


def _divided(size: Any, workers: int) -> Any:
    return size // workers if isinstance(size, int) else tvm.sym.Analyzer().simplify(tvm.tirx.floordiv(size, workers))
