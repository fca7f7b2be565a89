"""Cutting the weights of a model for its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spmd.checks import index, told
from spmd.errors import ShardingError, nearest
from spmd.ir.trees import leaves
from spmd.placement.arrays import array_of, weights_of
from spmd.placement.layout import Array, cut
from spmd.placement.mesh import Mesh
from spmd.plan.decisions import Leaf
from spmd.plan.model import Plan

from .opened import opened


def weight_leaves(plan: Plan) -> dict[str, Leaf]:
    """Every weight of the plan by name, in parameter order."""
    found: dict[str, Leaf] = {}

    for signature in plan.functions.values():
        if signature.num_input is not None:
            for leaf in leaves(signature.params[signature.num_input :]):
                if leaf.sharding is not None:
                    found.setdefault(leaf.name, leaf)
    return found


def partition(
    plan: Plan, weights: Mapping[str, Any] | Sequence[Any], rank: int | None = None, constants: Mapping[str, Any] | None = None
) -> Any:
    """The shards of `weights`, by name or all in parameter order: a list of dicts, one a worker, or the dict of worker `rank`.

    Weights may be in files, or given by a function from names to arrays, too (see `spmd.weights.source`): shards are read, and no more.
    Those of `constants`, which nobody gives, are added. Raises `ShardingError` for a missing, unknown or misshapen weight. Padding is zero.
    """
    wanted, ranks = weight_leaves(plan), range(plan.mesh.size) if rank is None else [_worker(rank, plan)]
    stored = opened(weights)
    if stored is not None:
        shards = [{name: stored.shard(leaf, plan.mesh, r) for name, leaf in wanted.items()} for r in ranks]
    else:
        arrays = _arrays(wanted, weights_of("partition", weights, "partition"), constants or {})
        shards = [_cut(arrays, wanted, plan.mesh, r) for r in ranks]
    lifted = {leaf.name: leaf for signature in plan.functions.values() for leaf in signature.constants if leaf.name in (constants or {})}
    for r, shard in zip(ranks, shards, strict=True):
        shard.update(_cut(constants or {}, lifted, plan.mesh, r))
    return shards if rank is None else shards[0]


def _cut(arrays: Mapping[str, Array], leaves: Mapping[str, Leaf], mesh: Mesh, rank: int) -> dict[str, Array]:
    return {name: cut(arrays[name], leaf.sharding, mesh, rank) for name, leaf in leaves.items() if leaf.sharding is not None}


def _arrays(wanted: Mapping[str, Leaf], weights: Mapping[str, Any] | Sequence[Any], constants: Mapping[str, Any]) -> dict[str, Array]:
    """Whole weights by name, each checked."""
    if not isinstance(weights, Mapping):
        if len(weights) != len(wanted):
            raise ShardingError(
                "partition", f"{len(weights)} weights for {len(wanted)} parameters", "Pass one a parameter, or a dict by name."
            )
        weights = dict(zip(wanted, weights, strict=True))
    for name in weights:
        if name in constants:
            raise ShardingError("partition", f"weight {name!r} is a constant of the program", "Leave it out: its value is known.")
        if name not in wanted:
            raise ShardingError("partition", f"the module has no weight {name!r}", nearest(name, wanted))
    for name in wanted:
        if name not in weights:
            raise ShardingError("partition", f"weight {name!r} is missing", nearest(name, weights))
    return {name: _checked(leaf, weights[name]) for name, leaf in wanted.items()}


def _worker(rank: Any, plan: Plan) -> int:
    found = index(rank)
    if found is None or not 0 <= found < plan.mesh.size:
        raise ShardingError("partition", f"there is no worker {told(rank)} in {plan.mesh}", f"Workers are 0 to {plan.mesh.size - 1}.")
    return found


def _checked(leaf: Leaf, weight: Any) -> Array:
    """The weight as an array of the shape and type of its leaf."""
    shape, array = leaf.shape or (), array_of(f"partition: weight {leaf.name!r}", weight)
    if array is None:
        what = f"weight {leaf.name!r} is {told(weight)}, the module has {leaf.dtype}{list(shape)}"
        raise ShardingError("partition", what, "Pass an array of NumPy, or a tensor of PyTorch or TVM.")
    fits = len(shape) == array.ndim and all(isinstance(s, str) or s == n for s, n in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.name != leaf.dtype:
        raise ShardingError(
            "partition",
            f"weight {leaf.name!r} is {array.dtype.name}{list(array.shape)}, the module has {leaf.dtype}{list(shape)}",
            "Convert it first.",
        )
    return array
