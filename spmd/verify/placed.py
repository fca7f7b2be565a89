"""Where a value lives, read as plain data: which element of the whole each element on a worker is.

A placement is whatever has `dims`, for each dimension None or what has `axes` and `segments` (of a `size` and a `unit`), or a `length`
(of a `number` and `names`), and `partial`, pairs of an axis and a kind of reduction. This says again, in its own words, what
docs/sharding.md says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from spmd.placement.mesh import Mesh

from . import field
from .collectives import reduced
from .expressions import is_float
from .field import NAN, PRIME, Array
from .signature import Place, Segment, Split
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
    """What each worker holds of a tensor; padding is zero, and the parts of a partial value are arbitrary.

    Workers that hold the same have one tensor of it where it `shares`.
    """
    found: list[Tensor] = []
    known: dict[Any, Tensor] = {}
    for rank in range(mesh.size):
        held = places(placement, x.data.shape, mesh, rank)
        key = tuple(at.tobytes() for at in held) if shares and not placement.partial else rank
        if key not in known:
            known[key] = _cut(x, held)
        found.append(known[key])
    return _parts(found, placement.partial, mesh) if placement.partial else found


def _parts(column: list[Tensor], partial: Any, mesh: Mesh) -> list[Tensor]:
    """A value in summands, one for each worker along the axes that it is partial over."""
    dtype, seed = column[0].dtype, hashlib.blake2b(b"".join(part.data.tobytes() for part in column), digest_size=8).digest()
    dice = np.random.default_rng(int.from_bytes(seed, "little"))  # of each value other summands
    if any(kind != "sum" for _, kind in partial) or dtype == "bool":
        raise Undecided("a parameter that is a partial value, and no sum")
    for group in mesh.groups("+".join(axis for axis, _ in partial)):
        rest = column[group[0]].data
        for rank in group[1:]:
            part = dice.integers(0, PRIME if is_float(dtype) else 100, rest.shape).astype(rest.dtype)
            column[rank], rest = Tensor(part, dtype), field.subtract(rest, part) if is_float(dtype) else rest - part
        column[group[0]] = Tensor(rest, dtype)
    return column


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


def compared(expected: Tensor, column: Sequence[Tensor], placement: Any, mesh: Mesh) -> int:
    """How many numbers of the workers are those of a tensor that is so placed; raises `Wrong` at the first that is another one."""
    seen: set[Any] = set()
    count = 0
    for rank, part in enumerate(whole_parts(column, placement, mesh)):
        held = places(placement, expected.data.shape, mesh, rank)
        key = (id(part), *(at.tobytes() for at in held))
        if key in seen:
            continue
        seen.add(key)
        if part.data.shape != tuple(map(len, held)) or part.dtype != expected.dtype:
            raise Wrong(f"on worker {rank} is {part.dtype}{part.data.shape}, and not {expected.dtype}{tuple(map(len, held))}")
        if not expected.data.size:
            continue
        counted = valid(held)
        wrong = counted & (part.data != expected.data[np.ix_(*(np.maximum(at, 0) for at in held))])
        count += int(counted.sum())
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Wrong(f"on worker {rank} has {int(wrong.sum())} of {int(counted.sum())} numbers wrong, first at {at}")
    return count


def found(expected: Sequence[Tensor], column: Sequence[Tensor], mesh: Mesh) -> tuple[int, Place] | None:
    """Of which of some tensors workers hold a value, and how: evenly split, and summed over axes where that is what fits."""
    for i, tensor in enumerate(expected):
        if tensor.dtype != column[0].dtype or tensor.data.ndim != column[0].data.ndim or bool((tensor.data == NAN).any()):
            continue
        for place in _possible(tensor.data.shape, column[0].data.shape, mesh):
            try:
                compared(tensor, column, place, mesh)
            except Wrong:
                continue
            return i, place
    return None


def copies(tensors: Sequence[Tensor]) -> list[int]:
    """For each tensor the place of the first one that is equal."""
    first: dict[Any, int] = {}
    return [first.setdefault((x.dtype, x.data.shape, x.data.tobytes()), i) for i, x in enumerate(tensors)]


def _possible(whole: Sequence[int], held: Sequence[int], mesh: Mesh) -> Iterator[Place]:
    """The placements of a tensor of one shape in which each worker holds one of another."""
    axes = [axis for axis, n in mesh.axes.items() if n > 1]
    orders = [order for count in range(1, len(axes) + 1) for order in permutations(axes, count)]
    ways: list[list[Split | None]] = []
    for n, m in zip(whole, held, strict=True):
        ways.append([None] if n == m else [Split(order, (Segment(n),)) for order in orders if mesh.axis_size(*order) * m == n])
    for dims in product(*ways):
        used = [axis for split in dims if split is not None for axis in split.axes]
        rest = [axis for axis in axes if axis not in used]
        if len(used) == len(set(used)):
            for names in (names for count in range(len(rest) + 1) for names in combinations(rest, count)):
                yield Place(dims, tuple((axis, "sum") for axis in names))
