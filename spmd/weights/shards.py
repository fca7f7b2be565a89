"""The shard of a tensor as boxes: which parts of the tensor a worker holds, and where, in pieces of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from spmd.placement.layout import Array, identity, pieces
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding

from .gather import GAP, Box, strides_of

PIECE = 8 << 20
"""Bytes of the memory that is filled at once, and of what is read to fill it."""
ReadBox = Callable[[Box, Array], None]


@dataclass(frozen=True)
class Run:
    """`size` consecutive elements of a dimension: from `start` on of the tensor, from `at` on of the shard."""

    start: int
    at: int
    size: int

    def within(self, begin: int, end: int) -> Run:
        """What of it lies in this part of the shard, which then begins at 0."""
        first, last = max(self.at, begin), min(self.at + self.size, end)
        return Run(self.start + first - self.at, first - begin, last - first)


@dataclass(frozen=True)
class Cut:
    """The shard of one worker of a tensor of this `shape`: its `local` shape and the runs of each dimension; all else is padding."""

    shape: tuple[int, ...]
    local: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]
    neutral: float | None
    """What it is full of where the value is partial and another worker has it."""

    @classmethod
    def of(cls, shape: tuple[int, ...], sharding: Sharding, mesh: Mesh, rank: int) -> Cut:
        """Raises `ShardingError` where the sharding is of another shape."""
        sharding = sharding.at(shape)
        local = sharding.local_shape(shape, mesh)
        found: list[tuple[Run, ...]] = []
        for size, split in zip(shape, sharding.dims, strict=True):
            held = [(0, 0, size, size)] if split is None else pieces(split, mesh, mesh.index(rank, split.axes))
            found.append(tuple(Run(start, at, valid) for start, at, valid, _ in held if valid))
        return cls(shape, local, tuple(found), identity(sharding, mesh, rank))

    def boxes(self, itemsize: int) -> Iterator[Box]:
        """Parts of the shard that are consecutive in its memory, in order; to fill one, `PIECE` bytes are read, or those of one element."""
        if not math.prod(self.local):
            return
        sizes = [size if len(runs) > 1 else local for size, local, runs in zip(self.shape, self.local, self.runs, strict=True)]
        dim, inner = len(sizes), itemsize
        while dim and inner * max(sizes[dim - 1], 1) <= PIECE:
            dim -= 1
            inner *= max(sizes[dim], 1)
        rest = tuple((0, size) for size in self.local[dim:])
        if not dim:
            yield rest
            return
        step = max(1, PIECE // inner * self.local[dim - 1] // sizes[dim - 1])
        for outer in product(*(range(size) for size in self.local[: dim - 1])):
            for start in range(0, self.local[dim - 1], step):
                yield (*((i, i + 1) for i in outer), (start, min(start + step, self.local[dim - 1])), *rest)

    def fill(self, box: Box, out: Array, read: ReadBox) -> None:
        """Write a part of the shard to `out`, of that shape: `read` reads boxes of the tensor."""
        if self.neutral is not None:
            out[...] = self.neutral
            return
        strides = strides_of(self.shape, out.itemsize)
        near = [_near(_inside(runs, *ends), stride) for runs, ends, stride in zip(self.runs, box, strides, strict=True)]
        if math.prod(sum(run.size for group in groups for run in group) for groups in near) < out.size:
            out[...] = 0  # what is padding
        for groups in product(*near):
            covered = tuple((group[0].start, group[-1].start + group[-1].size) for group in groups)
            if all(len(group) == 1 for group in groups):
                read(covered, out[(*(slice(group[0].at, group[0].at + group[0].size) for group in groups), ...)])
                continue
            held = np.empty([end - start for start, end in covered], out.dtype)
            read(covered, held)
            for runs in product(*groups):
                there = tuple(slice(run.start - start, run.start - start + run.size) for run, (start, _) in zip(runs, covered, strict=True))
                out[tuple(slice(run.at, run.at + run.size) for run in runs)] = held[there]

    def array(self, dtype: np.dtype, read: ReadBox) -> Array:  # pyright: ignore[reportMissingTypeArgument]
        """All of the shard."""
        found = np.empty(self.local, dtype)
        for box in self.boxes(found.itemsize):
            self.fill(box, found[(*(slice(*ends) for ends in box), ...)], read)
        return found


def _inside(runs: Sequence[Run], begin: int, end: int) -> list[Run]:
    found = (run.within(begin, end) for run in runs)
    return [run for run in found if run.size > 0]


def _near(runs: Sequence[Run], stride: int) -> list[list[Run]]:
    """Runs in groups that are read together, as little lies between them."""
    groups: list[list[Run]] = []
    for run in runs:
        last = groups[-1][-1] if groups else None
        if last is not None and (run.start - last.start - last.size) * stride < GAP:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups
