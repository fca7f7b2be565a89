"""How a plan keeps a value, and whether a worker can hold a tensor so."""

from __future__ import annotations

from spmd.errors import ShardingError, nearest
from spmd.placement.axes import overlap
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.plan.model import Plan
from spmd.program.graph import Value

WAY_OUT = "Plan this module with spmd.plan()."


def kept_by(plan: Plan, value: Value) -> Sharding:
    """The sharding in which the plan keeps a value. Raises `ShardingError` where it says nothing of it."""
    table = plan.params if value.role == "weight" else plan.values
    found = table.get(value.path)
    if found is None:
        if not value.is_tensor and value.kind != "object":
            return Sharding.replicated(0)
        raise ShardingError(f"plan for {value.function!r}", f"it says nothing of {value.path!r}", f"{WAY_OUT} {nearest(value.path, table)}")
    return found


def check_held(sharding: Sharding, value: Value, mesh: Mesh, where: str) -> None:
    """Raise `ShardingError` unless a worker of the mesh can hold this value in this sharding."""
    if len(sharding.dims) != len(value.shape):
        raise ShardingError(where, f"{sharding} is for {len(sharding.dims)} dimensions, {value.name!r} has {len(value.shape)}", WAY_OUT)
    for split in sharding.dims:
        if split is not None and (wrong := split.wrong or next((s.wrong for s in split.segments if s.wrong), "")):
            raise ShardingError(where, f"{split!r} is no split: {wrong}", WAY_OUT)
    parts = mesh.parts(*sharding.axes())
    if any(overlap(part, other) for i, part in enumerate(parts) for other in parts[:i]):
        raise ShardingError(where, f"{sharding} uses a mesh axis twice", WAY_OUT)
    blocks = value.blocks or (1,) * len(value.shape)
    for i, (split, size, block) in enumerate(zip(sharding.dims, value.shape, blocks, strict=True)):
        if split is not None and not _fits(split, size, block):
            raise ShardingError(where, f"{sharding} does not fit dimension {i} of {value.name!r}, of size {value.dims[i]}", WAY_OUT)
    if sharding.normalized(mesh) != sharding:
        raise ShardingError(where, f"{sharding} has units that say nothing", WAY_OUT)


def _fits(split: Split, size: int | None, block: int) -> bool:
    return split.size == size if split.is_known else size is None and split.size > 0 and block % split.size == 0
