"""Mean, variance and standard deviation over a split dimension: what is reduced over the workers is one number a row.

In two passes, the mean and then the squared deviations from it: the difference of two large sums of squares would lose digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax

from .context import FormContext, form


def widened(f: FormContext, x: Any) -> Any:
    """`x` in float32 where its floats have fewer bits: their sums may be larger than any of them, or lose digits."""
    dtype = str(x.ty.dtype)
    return f.emit(relax.op.astype(x, "float32")) if dtype in ("float16", "bfloat16") or "float8" in dtype else x


def like(f: FormContext, x: Any, original: Any) -> Any:
    """`x` in the dtype of `original`."""
    dtype = str(original.ty.dtype)
    return x if str(x.ty.dtype) == dtype else f.emit(relax.op.astype(x, dtype))


def total(f: FormContext, x: Any, axes: Sequence[int], *, keepdims: bool = True) -> Any:
    """The sum over `axes` and over the workers. Padding of `x` must be zero."""
    return f.all_reduce(f.emit(relax.op.sum(x, list(axes), keepdims=keepdims)), "sum")


def divided(f: FormContext, x: Any, count: int) -> Any:
    """`x` over a number of elements."""
    return f.emit(relax.op.divide(x, f.scalar(count, str(x.ty.dtype))))


def centred(f: FormContext, x: Any, dim: int, axes: Sequence[int], count: int) -> tuple[Any, Any]:
    """The mean over `axes` (their sizes 1), and what is left of `x`, zero in the padding of `dim`."""
    mean = divided(f, total(f, f.masked(x, dim, 0), axes), count)
    return mean, f.masked(f.emit(relax.op.subtract(x, mean)), dim, 0)


def squared(f: FormContext, x: Any) -> Any:
    """`x` times itself."""
    return f.emit(relax.op.multiply(x, x))


def count(f: FormContext, axes: Sequence[int]) -> int:
    """How many elements of the whole first input lie along `axes`."""
    return math.prod(f.node.inputs[0].shape[a] or 0 for a in axes)


def _reduced(f: FormContext) -> list[int]:
    x = f.args[0]
    return list(range(x.ty.ndim)) if f.call.attrs.axis is None else [int(a) % x.ty.ndim for a in f.call.attrs.axis]


@form("mean")
def mean(f: FormContext) -> Any:
    """A partial sum of each worker's share."""
    axes, x = _reduced(f), widened(f, f.masked(f.args[0], f.dim_of(0), 0))
    return like(f, divided(f, f.emit(relax.op.sum(x, axes, keepdims=bool(f.call.attrs.keepdims))), count(f, axes)), f.args[0])


@form("variance")
def variance(f: FormContext) -> Any:
    """The mean of the squared deviations: a partial sum."""
    return like(f, _variance(f), f.args[0])


@form("std")
def std(f: FormContext) -> Any:
    """The root of the variance."""
    return like(f, f.emit(relax.op.sqrt(f.all_reduce(_variance(f), "sum"))), f.args[0])


def _variance(f: FormContext) -> Any:
    axes, x = _reduced(f), widened(f, f.args[0])
    n = count(f, axes)
    _, deviation = centred(f, x, f.dim_of(0), axes, n)
    return divided(f, f.emit(relax.op.sum(squared(f, deviation), axes, keepdims=bool(f.call.attrs.keepdims))), n)
