"""What a move does to the memory of a worker beside the collective: the order of a dimension, and what stands in padding."""

from __future__ import annotations

from spmd.placement.mesh import Mesh

from .conversion import Step, moved_split


def scattered(move: Step) -> int:
    """The dimension that a move splits further; -1 where it splits none."""
    return move.to_dim if move.kind == "all_to_all" else move.dim if move.kind in ("slice", "reduce_scatter") else -1


def gathered(move: Step) -> int:
    """The dimension that a move makes longer; -1 where it makes none so."""
    return move.dim if move.kind in ("all_gather", "all_to_all") else -1


def is_packed(move: Step, mesh: Mesh) -> bool:
    """Whether a dimension is put into the order of the shards, padded, before it is scattered."""
    return _is_reordered(move, scattered(move), mesh)


def is_unpacked(move: Step, mesh: Mesh) -> bool:
    """Whether a dimension is put back into its own order, without padding, after it was gathered."""
    return _is_reordered(move, gathered(move), mesh)


def _is_reordered(move: Step, dim: int, mesh: Mesh) -> bool:
    if dim < 0:
        return False
    split = moved_split(move, dim, mesh)
    return len(split.segments) > 1 or split.is_padded(mesh) or split.repeated


def brings_zeros(move: Step, mesh: Mesh) -> bool:
    """Whether whatever padding there is after the move was made by it, and is zero."""
    into = scattered(move)
    padded = [i for i, split in enumerate(move.target.dims) if split is not None and split.is_padded(mesh)]
    return all(i == into and move.source.dims[i] is None for i in padded)
