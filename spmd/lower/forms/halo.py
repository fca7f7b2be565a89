"""Rows from the neighbours: what operators with a window need of a split dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from spmd.rules.windows import Halo

from .context import FormContext


def fetch(f: FormContext, x: Any, dim: int, halo: Halo, fill: float | None, *, padded: bool) -> Any:
    """The rows of dimension `dim` that this worker reads, own and received.

    `padded`: whether some worker holds padding. Rows that do not exist are `fill`, or copies of the nearest one where it is None.
    """
    rows = f.emit(relax.op.concat(parts, axis=dim)) if len(parts := _received(f, x, dim, halo)) > 1 else parts[0]
    wanted = np.array([[start + i for i in range(halo.length)] for start in halo.starts], "int64")
    base = np.arange(len(halo.starts))[:, None] * halo.held - halo.below
    if fill is None:
        nearest = np.clip(wanted, 0, halo.size - 1) - base
        return f.emit(relax.op.take(rows, f.own(_inside(nearest, halo)), axis=dim))
    if halo.shift is None:
        rows = f.emit(relax.op.take(rows, f.own(_inside(wanted - base, halo)), axis=dim))
    elif halo.length < halo.below + halo.held + halo.above:
        rows = f.emit(relax.op.strided_slice(rows, [dim], [halo.shift], [halo.shift + halo.length]))
    exists = (wanted >= 0) & (wanted < halo.size)
    # Who has no neighbour receives zeros, and these are the only rows that do not exist where nobody holds padding.
    if exists.all() or (fill == 0 and halo.shift is not None and not padded):
        return rows
    mask = f.emit(relax.op.reshape(f.own(exists), [halo.length if d == dim else 1 for d in range(x.ty.ndim)]))
    return f.emit(relax.op.where(mask, rows, f.scalar(fill, str(x.ty.dtype))))


def own_rows(f: FormContext, x: Any, dim: int, starts: list[int], length: int) -> Any:
    """`length` rows of `x` from ``starts[w]`` on, on worker w."""
    if len(set(starts)) == 1:
        whole = starts[0] == 0 and int(x.ty.shape.values[dim]) == length
        return x if whole else f.emit(relax.op.strided_slice(x, [dim], [starts[0]], [starts[0] + length]))
    return f.emit(relax.op.take(x, f.own(np.array(starts, "int64")[:, None] + np.arange(length)), axis=dim))


def _inside(places: Any, halo: Halo) -> Any:
    """Reading outside of a tensor is undefined; what is read there instead is masked, or padding of the result."""
    return np.clip(places, 0, halo.below + halo.held + halo.above - 1)


def _received(f: FormContext, x: Any, dim: int, halo: Halo) -> list[Any]:
    """Own rows and those of the neighbours, in the order of the rows."""

    def edge(distance: int, rows: int) -> Any:
        if rows == halo.held:
            return x
        start = halo.held - rows if distance > 0 else 0
        return f.emit(relax.op.strided_slice(x, [dim], [start], [start + rows]))

    def received(distance: int, rows: int, pairs: tuple[tuple[int, int], ...]) -> Any:
        if pairs:
            return f.permute(edge(distance, rows), pairs)
        shape = [rows if d == dim else s for d, s in enumerate(x.ty.shape.values)]
        return f.emit(relax.op.zeros(shape, str(x.ty.dtype)))

    lower = [received(h.distance, h.rows, h.pairs) for h in halo.hops if h.distance > 0]
    return [*lower, x, *(received(h.distance, h.rows, h.pairs) for h in halo.hops if h.distance < 0)]
