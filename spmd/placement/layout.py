"""Cutting a global array into the shards of each worker, and joining shards again, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spmd.errors import ShardingError

from .mesh import Mesh
from .sharding import Sharding, Split

Array = NDArray[Any]
_JOIN: dict[str, np.ufunc] = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}
_IDENTITY = {"sum": -0.0, "prod": 1}


def pieces(split: Split, mesh: Mesh, index: int) -> list[tuple[int, int, int, int]]:
    """``(global start, local start, valid elements, local elements)`` of each segment that the worker at `index` holds."""
    workers = mesh.axis_size(*split.axes)
    found: list[tuple[int, int, int, int]] = []
    base = local = 0
    for segment in split.segments:
        size = segment.local(workers)
        start = min(index * size, segment.size)
        found.append((base + start, local, min(size, segment.size - start), size))
        base, local = base + segment.size, local + size
    return found


def same_placement(one: Sharding, other: Sharding, mesh: Mesh) -> bool:
    """Whether two shardings put the same elements at the same places of each worker: 9 rows over 4 workers, with or without units of 3."""

    def alike(a: Split | None, b: Split | None) -> bool:
        if a is None or b is None or not (a.is_known and b.is_known):
            return a == b
        workers = range(mesh.axis_size(*a.axes))
        return a.axes == b.axes and all(pieces(a, mesh, i) == pieces(b, mesh, i) for i in workers)

    return one.partial == other.partial and all(map(alike, one.dims, other.dims))


def cut(array: Array, sharding: Sharding, mesh: Mesh, rank: int) -> Array:
    """The shard that worker `rank` holds of the global `array`; padding is zero.

    A partial value is the array itself on the first worker of each partial axis and the identity elsewhere.
    """
    sharding = sharding.at(array.shape)
    sharding.local_shape(array.shape, mesh)
    for dim, split in enumerate(sharding.dims):
        if split is None:
            continue
        parts: list[Array] = []
        for start, _, valid, size in pieces(split, mesh, mesh.index(rank, split.axes)):
            part = array[(slice(None),) * dim + (slice(start, start + valid),)]
            if valid < size:
                part = np.pad(part, [(0, size - valid if d == dim else 0) for d in range(array.ndim)])
            parts.append(part)
        array = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=dim)
    neutral = identity(sharding, mesh, rank)
    if neutral is not None:
        array = np.full_like(array, neutral)
    return np.ascontiguousarray(array).reshape(array.shape)  # NumPy makes one dimension of none


def identity(sharding: Sharding, mesh: Mesh, rank: int) -> float | None:
    """What a shard of a partial value is full of on all workers but the first of each partial axis; None where it is the value itself."""
    kinds = (kind for axis, kind in sharding.partial if mesh.index(rank, (axis,)) > 0)
    return next((_IDENTITY[kind] for kind in kinds if kind in _IDENTITY), None)  # `join` reduces the first one first


def join(shards: Sequence[Array], sharding: Sharding, mesh: Mesh, shape: tuple[int, ...]) -> Array:
    """The global array of `shape` from one shard a worker, in the order of their ranks."""
    if len(shards) != mesh.size:
        raise ShardingError("join", f"{len(shards)} shards for the {mesh.size} workers of {mesh}")
    sharding = sharding.at(shape)
    expected = sharding.local_shape(shape, mesh)
    for rank, shard in enumerate(shards):
        if shard.shape != expected:
            raise ShardingError("join", f"worker {rank} has a shard of shape {shard.shape}, and {sharding} of {shape} makes {expected}")
    for axis, kind in sharding.partial:
        shards = _reduced(shards, kind, mesh.groups(axis))
    whole: Array = np.zeros(shape, shards[0].dtype)
    splits = [d for d in sharding.dims if d is not None]
    seen: set[tuple[int, ...]] = set()
    for rank, shard in enumerate(shards):
        place = tuple(mesh.index(rank, d.axes) for d in splits)
        if place in seen:
            continue  # a replica: the same shard again
        seen.add(place)
        for target, source in _regions(sharding, mesh, rank):
            whole[target] = shard[source]
    return whole


def reduce(kind: str, arrays: Sequence[Array], out: Array) -> None:
    """Reduce `arrays`, in their order, into `out`.

    Sums and products of floats below 32 bits are accumulated in float32 and rounded once. The sum of booleans is "or".
    """
    ufunc, first = _JOIN[kind], arrays[0]
    if len(arrays) == 1:
        out[...] = first
    elif first.dtype.itemsize <= 2 and first.dtype.kind not in "iub" and kind in _IDENTITY:
        total = first.astype(np.float32)
        for array in arrays[1:]:
            ufunc(total, array.astype(np.float32), out=total)
        out[...] = total
    else:
        ufunc(first, arrays[1], out=out)
        for array in arrays[2:]:
            ufunc(out, array, out=out)


def _reduced(shards: Sequence[Array], kind: str, groups: list[list[int]]) -> list[Array]:
    """The shards after an all-reduce in each of `groups`."""
    reduced = list(shards)
    for group in groups:
        whole = np.empty_like(shards[group[0]])
        reduce(kind, [shards[rank] for rank in group], whole)
        for rank in group:
            reduced[rank] = whole
    return reduced


def _regions(sharding: Sharding, mesh: Mesh, rank: int) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Every ``(global region, local region)`` that worker `rank` holds."""
    regions: list[tuple[tuple[slice, ...], tuple[slice, ...]]] = [((), ())]
    for split in sharding.dims:
        spans = [(slice(None), slice(None))]
        if split is not None:
            held = pieces(split, mesh, mesh.index(rank, split.axes))
            spans = [(slice(start, start + valid), slice(local, local + valid)) for start, local, valid, _ in held]
        regions = [((*target, a), (*source, b)) for target, source in regions for a, b in spans]
    return regions
