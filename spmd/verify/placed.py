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


def cut(x: Tensor, placement: Any, mesh: Mesh, rank: int) -> Tensor:
    """What a worker holds of a tensor; padding is zero. A partial value is held by the first worker along its axes."""
    held = places(placement, x.data.shape, mesh, rank)
    if x.data.size == 0:
        return Tensor(np.zeros([len(at) for at in held], x.data.dtype), x.dtype)
    data = np.where(valid(held), x.data[np.ix_(*(np.maximum(at, 0) for at in held))], np.zeros((), x.data.dtype))
    if any(mesh.index(rank, (axis,)) for axis, _ in placement.partial):
        if any(kind != "sum" for _, kind in placement.partial):
            raise Wrong("it is given as a partial value that is no sum")
        data = np.zeros_like(data)
    return Tensor(data, x.dtype)


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
