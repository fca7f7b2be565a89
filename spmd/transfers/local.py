"""What a move does to the memory of a worker beside the collective: the order of a dimension, and what stands in padding."""

from __future__ import annotations

from spmd.placement.mesh import Mesh

from .conversion import Move, moved_split


def is_packed(move: Move, mesh: Mesh) -> bool:
    """Whether a dimension is put into the order of the shards, padded, before it is scattered."""
    return _is_reordered(move, move.into, mesh)


def is_unpacked(move: Move, mesh: Mesh) -> bool:
    """Whether a dimension is put back into its own order, without padding, after it was gathered."""
    return _is_reordered(move, move.off, mesh)


def _is_reordered(move: Move, dim: int, mesh: Mesh) -> bool:
    if dim < 0:
        return False
    split = moved_split(move, dim, mesh)
    return len(split.segments) > 1 or split.is_padded(mesh) or split.repeated


def brings_zeros(move: Move, mesh: Mesh) -> bool:
    """Whether whatever padding there is after the move was made by it, and is zero."""
    into = move.into
    padded = [i for i, split in enumerate(move.target.dims) if split is not None and split.is_padded(mesh)]
    return all(i == into and move.source.dims[i] is None for i in padded)
