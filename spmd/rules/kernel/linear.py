"""What zeros and partial sums do in a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import tvm
from tvm import tirx

from spmd.ir.expressions import intrinsic

from .model import Block

_MOST = 4
"""The most inputs of which sets are tried."""
_Degree = Literal["zero", "one", "other"]
"""How a value depends on some inputs: it is zero, homogeneous and linear in them, or free of them; None says that it is none of these."""


def keeps_zero(blocks: Sequence[Block], given: Sequence[Any], written: Sequence[Any]) -> bool:
    """Whether every buffer in `written` is zero where all in `given` are, block after block."""
    known: dict[Any, float | None] = dict.fromkeys(given, 0.0)
    for block in blocks:
        if block.stores is None:
            known.update(dict.fromkeys(block.writes))
            continue
        for store in block.stores:
            before = 0.0 if store.start is None else _at_zero(store.start, known)
            known[store.buffer] = _at_zero(store.value, {**known, store.buffer: before})
    return all(known.get(p) == 0 for p in written)


def linear_sets(blocks: Sequence[Block], tensors: Sequence[Any], written: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """The smallest sets of inputs in which the kernel is linear, so that partial sums may go through it."""
    inputs = [i for i, p in enumerate(tensors) if p not in written]
    if any(b.stores is None for b in blocks):
        return ()
    found: list[tuple[int, ...]] = []
    for size in range(1, min(len(inputs), _MOST) + 1):
        for chosen in combinations(inputs, size):
            if not any(set(f) <= set(chosen) for f in found) and _is_linear(blocks, [tensors[i] for i in chosen], written):
                found.append(chosen)
    return tuple(found)


def _is_linear(blocks: Sequence[Block], chosen: Sequence[Any], written: Sequence[Any]) -> bool:
    known: dict[Any, _Degree | None] = dict.fromkeys(chosen, "one")
    for block in blocks:
        for store in block.stores or ():
            if any(_degree(i, known) not in ("other", "zero") for i in store.indices):
                return False
            if store.start is None:
                degree = _degree(store.value, known)
            else:
                degree = _sum(_degree(store.start, known), _degree(store.update, known)) if store.kind == "sum" else None
                if degree is None and _free([store.start, store.value], {**known, store.buffer: "other"}):
                    degree = "other"
            known[store.buffer] = degree
    return all(known.get(p) == "one" for p in written)


def _free(exprs: Sequence[Any], known: Mapping[Any, _Degree | None]) -> bool:
    return all(_degree(e, known) in ("other", "zero") for e in exprs)


def _sum(a: _Degree | None, b: _Degree | None) -> _Degree | None:
    if a == "zero":
        return b
    return a if b == "zero" or a == b else None


def _degree(expr: Any, known: Mapping[Any, _Degree | None]) -> _Degree | None:
    """The degree of `expr` in the chosen inputs, given that of each buffer ("other" where it is not there)."""
    if isinstance(expr, tvm.ir.TensorLoad):
        # A load at a place that a chosen input tells is anything but linear.
        return known.get(expr.source, "other") if _free(list(expr.indices), known) else None
    if isinstance(expr, tirx.IntImm | tirx.FloatImm):
        return "zero" if expr.value == 0 else "other"
    if isinstance(expr, tvm.ir.Var):
        return "other"
    parts = _operands(expr)
    if parts is None:
        return None
    degrees: list[_Degree | None] = [_degree(p, known) for p in parts]
    if isinstance(expr, tirx.Add):
        return _sum(degrees[0], degrees[1])
    if isinstance(expr, tirx.Sub):  # of floats, what is taken away from nothing turns the sign of a zero
        return None if degrees[1] == "one" and _is_float(expr) else _sum(degrees[0], degrees[1])
    if isinstance(expr, tirx.Mul):
        return _product(expr, degrees)
    if isinstance(expr, tirx.Div) and _is_float(expr) and degrees[0] == "one":
        return "one" if _is_factor(expr.b) and expr.b.value > 0 else None
    if isinstance(expr, tirx.Select) or intrinsic(expr) == "if_then_else":
        return _sum(degrees[1], degrees[2]) if degrees[0] in ("other", "zero") else None
    return "other" if all(d in ("other", "zero") for d in degrees) else None


def _product(expr: tirx.Mul, degrees: Sequence[_Degree | None]) -> _Degree | None:
    if "zero" in degrees and None not in degrees:
        return "zero"
    if degrees == ["other", "other"]:
        return "other"
    if sorted(map(str, degrees)) != ["one", "other"]:
        return None
    return "one" if not _is_float(expr) or _is_factor(expr.a if degrees[0] == "other" else expr.b) else None


def _is_factor(expr: Any) -> bool:
    """Whether a part that is zero stays the same zero when it is multiplied with this: a finite number that is not negative."""
    return isinstance(expr, tirx.FloatImm) and math.isfinite(expr.value) and math.copysign(1, expr.value) > 0


def _is_float(expr: Any) -> bool:
    return "float" in str(expr.ty.dtype)


def _operands(expr: Any) -> list[Any] | None:
    """What an expression is made of, or None where that is not known."""
    if isinstance(expr, tvm.ir.Call):
        return list(expr.args)
    if isinstance(expr, tirx.Select):
        return [expr.condition, expr.true_value, expr.false_value]
    if isinstance(expr, tirx.Cast):
        return [expr.value]
    if hasattr(expr, "a") and hasattr(expr, "b"):
        return [expr.a, expr.b]
    return [expr.a] if isinstance(expr, tirx.Not) else None


def _at_zero(expr: Any, known: Mapping[Any, float | None]) -> float | None:
    """The value of `expr` when each buffer holds its `known` value everywhere: NaN for a finite number that cannot be told,
    None for what may be no finite number.
    """
    if isinstance(expr, tvm.ir.TensorLoad):
        return known.get(expr.source)
    if isinstance(expr, tirx.IntImm | tirx.FloatImm):
        return float(expr.value) if math.isfinite(expr.value) else None
    if isinstance(expr, tirx.Cast):
        return _at_zero(expr.value, known)
    if isinstance(expr, tirx.Add | tirx.Sub | tirx.Mul | tirx.Max | tirx.Min):
        a, b = _at_zero(expr.a, known), _at_zero(expr.b, known)
        if a is None or b is None:
            return None
        if isinstance(expr, tirx.Mul) and 0 in (a, b):
            return 0.0
        if math.isnan(a) or math.isnan(b):
            return math.nan
        return _FOLD[type(expr)](a, b)
    return math.nan if isinstance(expr.ty, tvm.ir.PrimType) and "float" not in str(expr.ty.dtype) else None


_FOLD: dict[type, Callable[[float, float], float]] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Sub: lambda a, b: a - b,
    tirx.Mul: lambda a, b: a * b,
    tirx.Max: max,
    tirx.Min: min,
}
