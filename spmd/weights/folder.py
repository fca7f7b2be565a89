"""A folder of weights that are cut already: for each worker its own files, with a checksum of each tensor, and what they were cut for.

``weights.json`` says the mesh, and the shape, dtype and sharding of each weight. The files are ordinary safetensors files, whose metadata
say which worker's they are, of which cut, and the SHA-256 of each tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError, nearest
from spmd.placement.dtypes import numpy_dtype
from spmd.placement.layout import Array, same_placement
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf
from spmd.plan.serialize import loads

from .hostile import MOST_JSON, file_name, json_object, nbytes
from .safetensors import DTYPES, Contents, StoredTensor, contents
from .shards import Cut

HEADER, WORKER, WORKERS, CUT, SUMS = "weights.json", "spmd.worker", "spmd.workers", "spmd.cut", "spmd.sha256"
_AGAIN = "Cut the weights again: python -m spmd weights."


@dataclass(frozen=True)
class Weight:
    """One weight as it was cut."""

    shape: tuple[int, ...]
    dtype: str
    sharding: Sharding

    @property
    def wrong(self) -> str:
        """What no weight can have."""
        if len(self.shape) != len(self.sharding.dims) or min(self.shape, default=0) < 0:
            return "a weight has sizes of 0 or more, and a sharding of as many dimensions"
        return "" if self.dtype in DTYPES else f"there is no dtype {self.dtype!r} in safetensors"

    @property
    def nbytes(self) -> int:
        """The bytes of the whole weight."""
        return nbytes(self.shape, numpy_dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class Header:
    """What ``weights.json`` says."""

    mesh: Mesh
    weights: dict[str, Weight]
    files: list[list[str]]
    """The files of each worker."""
    cut: str
    """See `fingerprint`."""
    job: str = ""
    """The source that it was made of; empty where nobody can tell."""

    @property
    def wrong(self) -> str:
        """What cannot be."""
        return "" if len(self.files) == self.mesh.size else f"it has files of {len(self.files)} workers of {self.mesh}"


def fingerprint(mesh: Mesh, weights: Mapping[str, Weight]) -> str:
    """The same for two plans that cut the same weights the same way: how many workers there are along which axes, and each sharding."""
    told = [f"{name}: {w.dtype} {w.shape} {w.sharding.at(w.shape).normalized(mesh)}" for name, w in sorted(weights.items())]
    return hashlib.sha256("\n".join([str(dict(mesh.axes)), *told]).encode()).hexdigest()


@dataclass(frozen=True)
class Folder:
    """Weights that are cut already, as `workers` load them."""

    path: Path
    header: Header = field(repr=False)
    _read: dict[int, tuple[_File, ...]] = field(default_factory=lambda: {}, init=False, repr=False, compare=False)

    @classmethod
    @door(path=checks.path)
    def of(cls, path: str | Path) -> Folder:
        """Read what ``python -m spmd weights`` wrote; of the data nothing is read. Raises `ShardingError`."""
        place = Path(path) / HEADER
        if not place.is_file():
            raise ShardingError(str(path), f"there is no {HEADER} in it", "Give a folder that python -m spmd weights wrote.")
        if place.stat().st_size > MOST_JSON:
            raise ShardingError(str(place), f"it has {place.stat().st_size} bytes, and {MOST_JSON} at most are read", _AGAIN)
        text = place.read_bytes()
        json_object(str(place), text)
        header = loads(Header, text.decode())
        for name in (name for names in header.files for name in names):
            file_name(str(place), name)
        if fingerprint(header.mesh, header.weights) != header.cut:
            raise ShardingError(str(place), "its fingerprint is of other weights: it was changed", _AGAIN)
        return cls(Path(path), header)

    def shape(self, leaf: Leaf) -> tuple[int, ...]:
        """The whole shape of a weight. Raises `ShardingError` unless it was cut as the program takes it."""
        known = self.header.weights
        where = f"weight {leaf.name!r}"
        if leaf.name not in known:
            raise ShardingError(where, f"it is not in {self.path}", nearest(leaf.name, known) or _AGAIN)
        found, shape = known[leaf.name], leaf.shape or ()
        fits = len(shape) == len(found.shape) and all(isinstance(s, str) or s == n for s, n in zip(shape, found.shape, strict=True))
        if not fits or leaf.dtype != found.dtype:
            what = f"it is {found.dtype}{list(found.shape)} in {self.path}, and the program takes {leaf.dtype}{list(shape)}"
            raise ShardingError(where, what, _AGAIN)
        return found.shape

    def shard(self, leaf: Leaf, mesh: Mesh, rank: int) -> Array:
        """What worker `rank` holds of a weight, its checksum looked at. Raises `ShardingError` for what was cut for another plan."""
        shape, where, found = self.shape(leaf), f"weight {leaf.name!r}", self.header.weights[leaf.name]
        assert leaf.sharding is not None
        if list(mesh.axes.items()) != list(self.header.mesh.axes.items()):
            raise ShardingError(where, f"{self.path} was cut for {self.header.mesh}, and the program runs on {mesh}", _AGAIN)
        taken, held = leaf.sharding.at(shape), found.sharding.at(shape)
        if not same_placement(taken, held, mesh):
            raise ShardingError(where, f"it was cut as {held} in {self.path}, and the program takes {taken}", _AGAIN)
        tensor, expected = self._stored(where, leaf.name, rank)
        local = held.local_shape(shape, mesh)
        if (tensor.shape, tensor.dtype) != (local, found.dtype):
            what = f"{tensor.where} is {tensor.dtype}{list(tensor.shape)}, and worker {rank} holds {found.dtype}{list(local)}"
            raise ShardingError(where, what, _AGAIN)
        data, summed = np.empty(local, numpy_dtype(found.dtype)), hashlib.sha256()
        for box in Cut.of(local, Sharding.replicated(len(local)), mesh, rank).boxes(data.itemsize):
            part = data[(*(slice(*ends) for ends in box), ...)]
            tensor.read(box, part)
            summed.update(bytes_of(part))
        if summed.hexdigest() != expected:
            what = f"{tensor.where} has the checksum {summed.hexdigest()[:16]}, and was written with {expected[:16]}: it is corrupt"
            raise ShardingError(where, what, f"Copy the file again. {_AGAIN}")
        return data

    def _stored(self, where: str, name: str, rank: int) -> tuple[StoredTensor, str]:
        """Where the shard of a weight lies, and its checksum."""
        for found in self._files(where, rank):
            if name in found.contents.tensors:
                if not isinstance(found.sums.get(name), str):
                    raise ShardingError(where, f"{found.contents.file.path} has no checksum of it", _AGAIN)
                return found.contents.tensors[name], found.sums[name]
        raise ShardingError(where, f"it is in no file of worker {rank} in {self.path}", _AGAIN)

    def _files(self, where: str, rank: int) -> tuple[_File, ...]:
        """The files of a worker, their headers read once; each must say that it is that worker's, of this cut."""
        if rank not in self._read:
            self._read[rank] = tuple(self._file(where, name, rank) for name in self.header.files[rank])
        return self._read[rank]

    def _file(self, where: str, name: str, rank: int) -> _File:
        path = self.path / name
        if not path.is_file():
            raise ShardingError(where, f"{name}, a file of worker {rank}, is missing in {self.path}", _AGAIN)
        try:
            found = contents(path)
        except ShardingError as error:
            raise ShardingError(where, f"{error}".rstrip("."), _AGAIN) from None
        worker, workers, cut = (found.metadata.get(key) for key in (WORKER, WORKERS, CUT))
        if (worker, workers, cut) != (str(rank), str(self.header.mesh.size), self.header.cut):
            whose = f"worker {worker} of {workers}" if cut == self.header.cut else "another cut"
            raise ShardingError(where, f"{path} is of {whose}, and stands where worker {rank} has its own: it was renamed", _AGAIN)
        return _File(found, json_object(f"{path}, {SUMS}", found.metadata.get(SUMS, "").encode()))


@dataclass(frozen=True)
class _File:
    """One file of a worker, and the checksums of its tensors."""

    contents: Contents
    sums: dict[str, Any]


def bytes_of(array: Array) -> memoryview:
    """The bytes of an array that is in one piece."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)
