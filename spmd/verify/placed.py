"""Where a value lives, read as plain data: which element of the whole each element on a worker is.

A placement is whatever has `dims`, for each dimension None or what has `axes` and `segments` (of a `size` and a `unit`), or a `length`
(of a `number` and `names`), and `partial`, pairs of an axis and a kind of reduction. This says again, in its own words, what
docs/sharding.md says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spmd.placement.mesh import Mesh

from .collectives import reduced
from .field import Array
from .undecided import Undecided
from .values import Tensor, Wrong

PADDING = -1


def positions(split: Any, size: int, index: int, workers: int) -> Array:
    """The places in a dimension of `size` of what the worker at `index` holds, `PADDING` where it holds none."""
    segments = [(int(s.size), int(s.unit)) for s in split.segments]
    counted = sum(n for n, _ in segments)
    length = getattr(split, "length", None)
    if length is not None:
        if length.names:
            raise Undecided(f"a dimension that is split by {length}")
        uneven, times = split.uneven, size // int(length.number)
        segments = [(size, int(length.number))] if uneven else [(int(length.number), 1)] * times
    elif getattr(split, "symbolic", False):
        segments = [(n * (size // counted), unit * (size // counted)) for n, unit in segments]
    elif getattr(split, "repeated", False):
        segments = segments * (size // counted)
    found, base = [np.zeros(0, "int64")], 0
    for length, unit in segments:
        held = -(-length // (unit * workers)) * unit
        inside = index * held + np.arange(held)
        found.append(np.where(inside < length, base + inside, PADDING))
        base += length
    if base != size:
        raise Wrong(f"the segments {segments} of a dimension add up to {base}, and its size is {size}")
    return np.concatenate(found)


def places(placement: Any, shape: Sequence[int], mesh: Mesh, rank: int) -> list[Array]:
    """`positions` for each dimension."""
    if len(placement.dims) != len(shape):
        raise Wrong(f"it is placed by {len(placement.dims)} dimensions, and has the shape {tuple(shape)}")
    found: list[Array] = []
    for split, size in zip(placement.dims, shape, strict=True):
        whole = split is None
        axes = () if whole else tuple(split.axes)
        found.append(np.arange(size) if whole else positions(split, size, mesh.index(rank, axes), mesh.axis_size(*axes)))
    return found


def cuts(x: Tensor, placement: Any, mesh: Mesh, shares: bool) -> list[Tensor]:
    """What each worker holds of a tensor; padding is zero, and a partial value is held by the first workers along its axes.

    Workers that hold the same have one tensor of it where it `shares`.
    """
    found: list[Tensor] = []
    known: dict[Any, Tensor] = {}
    for rank in range(mesh.size):
        held = places(placement, x.data.shape, mesh, rank)
        is_first = not any(mesh.index(rank, (axis,)) for axis, _ in placement.partial)
        key = (is_first, *(at.tobytes() for at in held)) if shares else rank
        if key not in known:
            known[key] = _cut(x, held)
            if not is_first:
                if any(kind != "sum" for _, kind in placement.partial):
                    raise Wrong("it is given as a partial value that is no sum")
                known[key].data[...] = 0
        found.append(known[key])
    return found


def _cut(x: Tensor, held: Sequence[Array]) -> Tensor:
    if x.data.size == 0:
        return Tensor(np.zeros([len(at) for at in held], x.data.dtype), x.dtype)
    data = x.data[np.ix_(*(np.maximum(at, 0) for at in held))]
    return Tensor(np.where(valid(held), data, np.zeros((), x.data.dtype)), x.dtype)


def valid(held: Sequence[Array]) -> Array:
    """Where there is no padding, for the places of each dimension."""
    found = np.ones((), bool)
    for dim, at in enumerate(held):
        found = found & (at != PADDING).reshape([-1 if d == dim else 1 for d in range(len(held))])
    return np.broadcast_to(found, [len(at) for at in held])


def whole_parts(column: Sequence[Tensor], placement: Any, mesh: Mesh) -> list[Tensor]:
    """What workers hold once partial values are reduced."""
    parts = list(column)
    for axis, kind in placement.partial:
        for group in mesh.groups(axis):
            one = reduced([parts[rank] for rank in group], kind)
            for rank in group:
                parts[rank] = one
    return parts
