"""The Relax code of a conversion: collectives, the moves around them, and what stands in padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from spmd import collectives
from spmd.errors import ShardingError
from spmd.placement.dtypes import ends, numpy_dtype
from spmd.placement.layout import pieces
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.transfers.conversion import Move, moved_split

from .reorder import Emit, folded, local_dim, local_dims, reshaped, shard_order, whole_order


@dataclass(frozen=True)
class Payload:
    """What a collective moves: a tensor as it is sent, the move that it makes, and its name for traces."""

    x: Any
    move: Move
    value: str


def pack(emit: Emit, x: Any, move: Move, dims: Sequence[Any], mesh: Mesh) -> Any:
    """`x`, held in ``move.source``, with the dimension that is scattered in the order of the shards, padded. `dims` is the global shape."""
    into = move.into
    return shard_order(emit, x, into, local_dims(dims, move.source, mesh), moved_split(move, into, mesh), mesh)


def unpack(emit: Emit, x: Any, move: Move, dims: Sequence[Any], mesh: Mesh) -> Any:
    """`x`, that a collective has gathered, with the gathered dimension in its own order and without padding."""
    here, off, into = local_dims(dims, move.source, mesh), move.off, move.into
    if into >= 0:
        here[into] = local_dim(here[into], moved_split(move, into, mesh), mesh)
    return whole_order(emit, x, off, here, moved_split(move, off, mesh), mesh, dims[off])


def keep_own(emit: Emit, x: Any, move: Move, dims: Sequence[Any], mesh: Mesh) -> Any:
    """The part of `x`, packed, that a slice leaves to this worker."""
    here, into = local_dims(dims, move.source, mesh), move.dim
    size = local_dim(here[into], moved_split(move, into, mesh), mesh)
    return _own_part(emit, x, into, here, size, move.axis, mesh.axis_size(move.axis))


def emit_collective(emit: Emit, sent: Sequence[Payload], mesh: Mesh) -> list[Any]:
    """What a worker has after a collective, of each of the tensors that go in one call, packed as they must be.

    Raises `ShardingError` where these are no moves of one kind.
    """
    first = sent[0].move
    attrs = _attributes(first, mesh)
    if any(one.move.kind != first.kind or _attributes(one.move, mesh) != attrs for one in sent):
        names = ", ".join(repr(one.value) for one in sent)
        raise ShardingError(f"a bundle of {names}", "they are not sent alike", "Plan this module with spmd.plan().")
    x = sent[0].x if len(sent) == 1 else [one.x for one in sent]
    value = collectives.SEPARATOR.join(one.value for one in sent)
    made = emit(getattr(collectives, first.kind)(x, **attrs, workers=mesh.axis_size(first.axis), value=value))
    return [made] if len(sent) == 1 else [emit(relax.TupleGetItem(made, i)) for i in range(len(sent))]


def _attributes(move: Move, mesh: Mesh) -> dict[str, Any]:
    """Those of the operator of the dialect that makes the move."""
    if move.kind == "all_reduce":
        return {"axis": move.axis, "kind": move.reduce}
    if move.kind == "permute":
        return {"axis": move.axis, "pairs": tuple(_exchange(move, mesh))}
    if move.kind == "all_gather":
        return {"axis": move.axis, "dim": move.dim}
    if move.kind == "reduce_scatter":
        return {"axis": move.axis, "kind": move.reduce, "dim": move.dim}
    return {"axis": move.axis, "split_dim": move.to_dim, "concat_dim": move.dim}


def _exchange(step: Move, mesh: Mesh) -> list[tuple[int, int]]:
    """Who sends its whole shard to whom: every worker one that `step.target` wants there, itself where it can."""
    (group, *_) = mesh.groups(step.axis)

    def shards(sharding: Sharding) -> list[tuple[int, ...]]:
        splits = [d for d in sharding.dims if d is not None]
        return [tuple(mesh.index(rank, d.axes) for d in splits) for rank in group]

    held, wanted = shards(step.source), shards(step.target)
    pairs = {place: place for place in range(len(group)) if held[place] == wanted[place]}
    free = [place for place in range(len(group)) if place not in pairs]
    for target in range(len(group)):
        if target not in pairs.values():
            source = next(place for place in free if held[place] == wanted[target])
            free.remove(source)
            pairs[source] = target
    return sorted(pairs.items())


def mask_padding(emit: Emit, x: Any, dims: Sequence[Any], sharding: Sharding, mesh: Mesh, kind: str = "sum") -> Any:
    """`x` with the neutral element of the reduction `kind` wherever a shard holds padding. `dims` is the global shape, `x` the shard."""
    dtype, here = str(x.ty.dtype), local_dims(dims, sharding, mesh)
    for dim, split in enumerate(sharding.dims):
        if split is None or not split.is_padded(mesh):
            continue
        size, folds = (here[dim], False) if split.uneven else (split.local_size(mesh), not split.is_known)
        seen, at = folded(here, dim, split, size) if folds else (here, dim)
        mine = _uneven_valid(emit, dims[dim], split, mesh) if split.uneven else _valid(emit, split, mesh)
        shaped = reshaped(emit, mine, [size if d == at else 1 for d in range(len(seen))])
        x = emit(relax.op.reshape(x, seen)) if folds else x
        x = emit(relax.op.where(shaped, x, relax.const(np.array(_neutral(kind, dtype), numpy_dtype(dtype)), dtype)))
        x = emit(relax.op.reshape(x, here)) if folds else x
    return x


def _valid(emit: Emit, split: Split, mesh: Mesh) -> Any:
    """Which elements of its part of a dimension, or of a pattern, this worker has: the others are padding."""
    workers = mesh.axis_size(split.axis)
    valid = np.zeros((workers, split.local_size(mesh)), "bool")
    for worker in range(workers):
        for _, start, count, _ in pieces(split, mesh, worker):
            valid[worker, start : start + count] = True
    return emit(relax.op.take(relax.const(valid), emit(collectives.axis_index(split.axis, workers)), axis=0))


def _uneven_valid(emit: Emit, size: Any, split: Split, mesh: Mesh) -> Any:
    """The same where the size is known when the program runs: the worker's part of all "yes"."""
    everywhere = shard_order(emit, emit(relax.op.ones([size], "bool")), 0, [size], split, mesh)
    return _own_part(emit, everywhere, 0, [size], local_dim(size, split, mesh), split.axis, mesh.axis_size(split.axis))


def _neutral(kind: str, dtype: str) -> Any:
    """What changes no result of the reduction `kind`; infinity where there is one, as a kernel that starts from there gives it."""
    if kind in ("sum", "prod"):
        return int(kind == "prod")
    return ends(dtype)[kind == "min"]


def _own_part(emit: Emit, x: Any, dim: int, here: list[Any], size: int, axis: str, workers: int) -> Any:
    """The part of dimension `dim`, in shard order, that belongs to this worker."""
    parts = reshaped(emit, x, [*here[:dim], workers, size, *here[dim + 1 :]])
    return emit(relax.op.take(parts, emit(collectives.axis_index(axis, workers)), axis=dim))
