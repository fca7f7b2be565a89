"""Placements of PyTorch's DTensor, read by their looks: PyTorch is not imported but to make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.placement.spec import P


def from_dtensor(placements: Mapping[str, Any], axes: Sequence[str] | None = None) -> dict[str, P]:
    """``{"w": [Replicate(), Shard(0)]}`` as ``{"w": P("tp", others=None)}``, for the mesh axes ``["dp", "tp"]``.

    Values are sequences of placements, one for each axis, or DTensors, whose mesh may name its axes itself.
    Raises `ShardingError` for partial sums and strided shards, which specs do not say.
    """
    if not isinstance(placements, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        what = f"it takes placements by name, and got {told(placements)}"
        raise ShardingError("from_dtensor", what, 'Write from_dtensor({"w": [Shard(0)]}, ["tp"]).')
    return {str(name): _spec(f"from_dtensor: {str(name)!r}", given, axes) for name, given in placements.items()}


def _spec(where: str, given: Any, axes: Sequence[str] | None) -> P:
    mesh = getattr(given, "device_mesh", None)
    named: Any = axes if axes is not None else getattr(mesh, "mesh_dim_names", None)
    if named is None:
        raise ShardingError(where, "nothing says how the axes of its mesh are called", 'Pass axes=["dp", "tp"].')
    listed = getattr(given, "placements", given)
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise ShardingError(where, f"its placements are {told(given)}", "Give a placement for each axis of the mesh.")
    found = list(cast("Sequence[Any]", listed))
    if len(found) != len(named):
        raise ShardingError(where, f"it has {len(found)} placements for the axes {', '.join(named)}", "Give one for each axis of the mesh.")
    split: dict[int, list[str]] = {}
    for axis, placement in zip(named, found, strict=True):
        kind = type(placement).__name__
        if kind == "Shard" and placement.dim >= 0:
            split.setdefault(placement.dim, []).append(axis)
        elif kind != "Replicate":
            way_out = "Write Shard(dim) with a dimension from 0 on, or Replicate(); partial sums are the planner's."
            raise ShardingError(where, f"{placement!r} is no spec", way_out)
    entries = [tuple(split[dim]) if dim in split else None for dim in range(max(split, default=-1) + 1)]
    return P(*(entry[0] if entry is not None and len(entry) == 1 else entry for entry in entries), others=None)


@door(sharding=checks.instance(Sharding, "Plan.params has them."), mesh=checks.instance(Mesh, "Write Mesh(tp=2)."))
def to_dtensor(sharding: Sharding, mesh: Mesh) -> list[Any]:
    """The placements of a sharding on a device mesh with the axes of `mesh`, in their order; PyTorch must be installed.

    Raises `ShardingError` for what DTensor cannot say: segments, units, sizes known at run time, and axes in another order than the mesh's.
    """
    torch = checks.package("torch.distributed.tensor", "to_dtensor", "PyTorch is not installed", "torch")
    placed: dict[str, Any] = {axis: torch.Partial(kind) for axis, kind in sharding.partial}
    order = list(mesh.axes)
    for dim, split in enumerate(sharding.dims):
        if split is None:
            continue
        plain = split.is_known and len(split.segments) == 1 and split.segments[0].unit == 1
        if not plain or sorted(split.axes, key=order.index) != list(split.axes) or any(axis not in order for axis in split.axes):
            raise ShardingError(
                "to_dtensor", f"DTensor cannot say {sharding}", "Ask for a sharding in one segment, axes in the order of the mesh."
            )
        placed.update(dict.fromkeys(split.axes, torch.Shard(dim)))
    return [placed.get(axis, torch.Replicate()) for axis in order]
