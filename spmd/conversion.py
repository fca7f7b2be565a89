"""The collectives that take a value from one sharding to another."""

from __future__ import annotations

from dataclasses import dataclass

from .mesh import Mesh
from .sharding import Sharding, Split


@dataclass(frozen=True)
class Step:
    """One move. `source` and `target` are the shardings before and after it.

    `kind` is "slice" (each worker keeps its part, nothing is sent), "all_gather", "all_reduce", "reduce_scatter" or "all_to_all".
    `dim` is the dimension that is gathered, scattered or sliced, `to_dim` the one that all_to_all splits instead.
    """

    kind: str
    axis: str
    source: Sharding
    target: Sharding
    dim: int = -1
    to_dim: int = -1
    reduce: str = ""


def conversion(source: Sharding, target: Sharding, mesh: Mesh) -> list[Step] | None:
    """The steps from `source` to `target`, or None where there is no way (nothing becomes partial).

    Written for shardings over one mesh axis.
    """
    if source == target:
        return []
    if target.partial and target.partial != source.partial:
        return None
    steps: list[Step] = []
    now = source

    def move(kind: str, axis: str, after: Sharding, dim: int = -1, to_dim: int = -1, reduce: str = "") -> None:
        nonlocal now
        steps.append(Step(kind, axis, now, after, dim, to_dim, reduce))
        now = after

    for axis, kind in source.partial:
        into = _split_dim(target, axis)
        if into is not None and now.dims[into] is None and kind == "sum":
            move("reduce_scatter", axis, Sharding(_with(now, into, target.dims[into])), into, reduce=kind)
        else:
            move("all_reduce", axis, Sharding(now.dims), reduce=kind)
    for dim, split in enumerate(now.dims):
        if split is None or split == target.dims[dim]:
            continue
        axis = split.axes[0]
        into = _split_dim(target, axis)
        if into is not None and into != dim and now.dims[into] is None:
            dims = list(_with(now, dim, None))
            dims[into] = target.dims[into]
            move("all_to_all", axis, Sharding(tuple(dims)), dim, into)
        else:
            move("all_gather", axis, Sharding(_with(now, dim, None)), dim)
    for dim, split in enumerate(target.dims):
        if split is not None and now.dims[dim] is None:
            move("slice", split.axes[0], Sharding(_with(now, dim, split)), dim)
    return steps


def _split_dim(sharding: Sharding, axis: str) -> int | None:
    return next((i for i, d in enumerate(sharding.dims) if d is not None and axis in d.axes), None)


def _with(sharding: Sharding, dim: int, split: Split | None) -> tuple[Split | None, ...]:
    return (*sharding.dims[:dim], split, *sharding.dims[dim + 1 :])
