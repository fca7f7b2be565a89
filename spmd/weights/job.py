"""One run of cutting: the files of all workers, opened under names of their own, filled weight by weight, checked where it goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from spmd.errors import ShardingError
from spmd.placement.dtypes import numpy_dtype
from spmd.placement.mesh import Mesh

from .folder import HEADER, Weight, bytes_of
from .journal import Journal
from .progress import Progress, size_text
from .shards import PIECE, Cut
from .targets import Target
from .tensors import InMemory, Tensor, whole

HELD = 128 << 20
"""A tensor of so many bytes is read once and held while it is cut for all workers; of a larger one each reads its own part."""
_THREADS = 4
GO_ON = "What is written is kept: the same command goes on from there."
"""What a run that was interrupted tells."""


def partial(place: Path, target: Target) -> Path:
    """The file under the name that it has until all is written."""
    return place / f".{target.name}.partial"


class Job:
    """Fills the files of a folder. `kept` says what an earlier run has done."""

    def __init__(self, place: Path, mesh: Mesh, weights: Mapping[str, Weight], files: list[list[Target]], kept: Journal) -> None:
        self.place, self.mesh, self.weights, self.kept = place, mesh, weights, kept
        self.targets = [target for mine in files for target in mine]
        self.holder = [{slot.name: target for target in mine for slot in target.slots} for mine in files]
        self.open: dict[str, int] = {}

    def run(self, tensor: Callable[[str], Tensor], bar: Progress | None) -> int:
        """Write all weights, which `tensor` finds by name; the bytes that were there already."""
        resumed = 0
        with ExitStack() as stack:
            self._reserve(stack)
            pool = stack.enter_context(ThreadPoolExecutor(min(_THREADS, self.mesh.size)))
            for name, weight in self.weights.items():
                size, is_there = weight.nbytes, self._is_there(pool, name)
                if is_there:
                    resumed += size
                else:
                    self.kept.add(name, self._write(pool, tensor(name), name, size))
                if bar is not None:
                    bar.add(size, skipped=is_there)
            for target in self.targets:
                self._put(target, target.header({slot.name: self.kept.done[slot.name][target.rank] for slot in target.slots}), 0)
                os.fsync(self.open[target.name])
        if bar is not None:
            bar.close()
        return resumed

    def _is_there(self, pool: ThreadPoolExecutor, name: str) -> bool:
        """Whether an earlier run has written a weight, and it is still what was written."""
        return name in self.kept.done and self.kept.done[name] == list(pool.map(lambda rank: self._sum(name, rank), range(self.mesh.size)))

    def _reserve(self, stack: ExitStack) -> None:
        """Open all files, of their whole size. Raises `ShardingError` where the disk has no room."""
        for left in self.place.glob(".*.safetensors.partial") if not self.kept.done else ():
            left.unlink()  # of another job
        for target in self.targets:
            path = partial(self.place, target)
            if self.kept.done and not path.exists() and (self.place / target.name).exists() and not (self.place / HEADER).exists():
                os.replace(self.place / target.name, path)  # it was interrupted when it renamed them
        there = sum(path.stat().st_blocks * 512 for path in (partial(self.place, target) for target in self.targets) if path.exists())
        needed, free = sum(target.size for target in self.targets) - there, shutil.disk_usage(self.place).free
        if needed > free:
            what = f"{size_text(needed)} are to be written, and its disk has {size_text(free)} free"
            raise ShardingError(str(self.place), what, "Make room, or choose another folder.")
        for target in self.targets:
            descriptor = os.open(partial(self.place, target), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            stack.callback(os.close, descriptor)
            os.ftruncate(descriptor, target.size)
            self.open[target.name] = descriptor

    def _write(self, pool: ThreadPoolExecutor, tensor: Tensor, name: str, size: int) -> list[str]:
        """Cut one weight for all workers; the checksum of each shard."""
        held = InMemory(tensor.where, whole(tensor)) if size <= HELD and not isinstance(tensor, InMemory) else tensor
        return list(pool.map(lambda rank: self._shard(held, name, rank), range(self.mesh.size)))

    def _shard(self, tensor: Tensor, name: str, rank: int) -> str:
        weight, target = self.weights[name], self.holder[rank][name]
        cut, dtype = Cut.of(tensor.shape, weight.sharding, self.mesh, rank), numpy_dtype(weight.dtype)
        at, summed = target.begins[name], hashlib.sha256()
        for box in cut.boxes(dtype.itemsize):
            piece = np.empty([end - begin for begin, end in box], dtype)
            cut.fill(box, piece, tensor.read)
            data = bytes_of(piece)
            summed.update(data)
            self._put(target, data, at)
            at += len(data)
        return summed.hexdigest()

    def _put(self, target: Target, data: bytes | memoryview, at: int) -> None:
        left = memoryview(data)
        try:
            while left:
                count = os.pwrite(self.open[target.name], left, at)
                left, at = left[count:], at + count
        except OSError as error:
            raise ShardingError(str(self.place / target.name), f"it cannot be written: {error.strerror}", GO_ON) from error

    def _sum(self, name: str, rank: int) -> str:
        """The checksum of what lies in the file."""
        target = self.holder[rank][name]
        at, size = target.begins[name], next(slot.nbytes for slot in target.slots if slot.name == name)
        summed = hashlib.sha256()
        for begin in range(at, at + size, PIECE):
            summed.update(os.pread(self.open[target.name], min(PIECE, at + size - begin), begin))
        return summed.hexdigest()
