"""Layouts: an index map that only splits and permutes dimensions moves factors."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from spmd.ir.expressions import static
from spmd.rules.model import Rule, Shape
from spmd.rules.registry import OpCall, rule

from .helpers import whole

_DimFactor = tuple[int, int, int]
"""Dimension, stride and extent: a factor of an input dimension."""


@rule("relax.layout_transform")
def layout_transform(op: OpCall) -> Rule:
    """``(i // 4, j, i % 4)`` is ``(a b) c -> a c b``; the map is the same on a shard if only major factors are split."""
    index_map, shape = op.attrs.index_map, op.inputs[0]
    parts = [_part(expr, list(index_map.initial_indices), shape) for expr in index_map.final_indices]
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        return whole(op)
    ins: list[str] = []
    minor: list[str] = []
    for axis, size in enumerate(shape):
        mine = sorted((p for p in known if p[0] == axis), key=lambda p: -p[1])
        if not _covers(mine, size or 0):
            return whole(op)
        ins.append(f"({' '.join(map(_name, mine))})")
        minor += [_name(p) for p in mine[1:]]
    sizes = {_name(p): p[2] for p in known}
    # Factors of size 1 are no factors: their names would stand for dimensions of any size.
    text = f"{' '.join(ins)} -> {' '.join(map(_name, known))}"
    return op.bind(text, sizes=sizes, whole=frozenset(minor), zero="all", linear=((0,),))


def _name(part: _DimFactor) -> str:
    return f"d{part[0]}s{part[1]}"


def _covers(parts: list[_DimFactor], size: int) -> bool:
    """Whether the factors, major first, make up a dimension of this size, each once."""
    if math.prod(extent for _, _, extent in parts) != size:
        return False
    strides = [stride for _, stride, _ in parts]
    return strides == [math.prod(extent for _, _, extent in parts[i + 1 :]) for i in range(len(parts))]


def _part(expr: Any, indices: list[Any], shape: Shape) -> _DimFactor | None:
    """The factor that an index expression reads: a dimension, divided or taken modulo by constants."""
    at = next((i for i, var in enumerate(indices) if expr.same_as(var)), None)
    if at is not None:
        size = shape[at]
        return None if size is None else (at, 1, size)
    if not isinstance(expr, tirx.FloorDiv | tirx.FloorMod):
        return None
    inner, number = _part(expr.a, indices, shape), static(expr.b)
    if inner is None or not number:
        return None
    dim, stride, extent = inner
    if isinstance(expr, tirx.FloorMod):
        return (dim, stride, number) if extent % number == 0 else (inner if extent <= number else None)
    return (dim, stride * number, extent // number) if extent % number == 0 else None
