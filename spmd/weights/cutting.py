"""Cutting a checkpoint for all workers: each gets its own safetensors files, written piece by piece, finished or not there at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.placement.dtypes import numpy_dtype
from spmd.placement.mesh import Mesh
from spmd.plan.decisions import Leaf
from spmd.plan.model import Plan
from spmd.plan.serialize import dumps

from .checkpoint import fitting, source
from .folder import HEADER, Folder, Header, Weight, bytes_of, fingerprint
from .journal import NAME, Journal, journal
from .partition import weight_leaves
from .progress import Progress, size_text
from .safetensors import nbytes
from .shards import PIECE, Cut
from .targets import PATTERNS, Target, targets
from .tensors import InMemory, Source, Tensor, whole

HELD = 128 << 20
"""A tensor of so many bytes is read once and held while it is cut for all workers; of a larger one each reads its own part."""
_THREADS = 4
GO_ON = "What is written is kept: the same command goes on from there."
"""What a run that was interrupted tells."""


@dataclass(frozen=True)
class Written:
    """What `write` made."""

    folder: Path
    bytes: int
    """Of all files."""
    resumed: int
    """Bytes of data that were there already."""
    unused: tuple[str, ...] = field(repr=False)
    """Tensors of the source that the plan does not take."""


def _layout(where: str, given: Any) -> str:
    if not isinstance(given, str) or given not in PATTERNS:
        raise ShardingError(where, f"there is no layout {given!r}", f"Choose among {', '.join(PATTERNS)}.")
    return given


@door(
    plan=checks.instance(Plan, "Write spmd.Plan.load(path), or sharded.plan."),
    folder=checks.path,
    layout=_layout,
    part_bytes=checks.maybe(checks.whole(1)),
    progress=checks.flag,
)
def write(
    plan: Plan, given: Any, folder: str | Path, layout: str = "spmd", part_bytes: int | None = None, progress: bool = False
) -> Written:
    """Cut the weights of `given` (see `source`) as `plan` says into files of a folder, which `workers` load and vLLM's loaders read.

    `layout` says how files are called, `spmd` or `vllm`; with the latter a worker has files of `part_bytes` each. What was interrupted goes
    on; what the folder held of another cut is replaced when all is written. With `progress` a terminal shows how far it is.
    Raises `ShardingError` for what does not fit, before anything is written.
    """
    made, leaves = source(given), weight_leaves(plan)
    weights = {leaf.name: _weight(made, leaf) for leaf in _in_order(leaves)}
    if not weights:
        raise ShardingError("weights", "the plan has no weights", "Set the function attribute num_input, and plan again.")
    cut = fingerprint(plan.mesh, weights)
    files = targets(plan.mesh, weights, cut, layout, part_bytes)
    identity = made.identity()
    told = secrets.token_hex() if identity is None else f"{identity} {cut} {layout} {part_bytes}"
    header = Header(plan.mesh, weights, [[t.name for t in mine] for mine in files], cut, hashlib.sha256(told.encode()).hexdigest())
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    names, size = made.names(), sum(target.size for mine in files for target in mine)
    unused = tuple(sorted(set(names) - weights.keys())) if names is not None else ()
    old = _old(place)
    if old is not None and old == header:
        return Written(place, size, size, unused)
    with journal(place, header.job) as kept:
        bar = Progress(sum(nbytes(w.shape, numpy_dtype(w.dtype).itemsize) for w in weights.values())) if progress else None
        resumed = _Cutting(place, plan.mesh, weights, files, kept, bar).run(made, leaves)
        _finish(place, header, files, kept, old)
    return Written(place, size, resumed, unused)


def _in_order(leaves: Mapping[str, Leaf]) -> list[Leaf]:
    """Those of wide elements first, so that each tensor begins where its dtype can be read in place."""
    return sorted(leaves.values(), key=lambda leaf: -numpy_dtype(leaf.dtype).itemsize)


def _weight(made: Source, leaf: Leaf) -> Weight:
    """What is known of a weight before it is read. A function from names to arrays is not called for it where the plan says the shape."""
    assert leaf.sharding is not None
    sizes = tuple(size for size in leaf.shape or () if isinstance(size, int))
    known = made.names() is None and len(sizes) == len(leaf.shape or ())
    return Weight(sizes if known else fitting(leaf, made.tensor(leaf.name, leaf.dtype)).shape, leaf.dtype, leaf.sharding)


def _old(place: Path) -> Header | None:
    """What is in the folder already, if it is whole."""
    try:
        found = Folder.of(place).header
    except (ShardingError, OSError):
        return None
    return found if all((place / name).is_file() for names in found.files for name in names) else None


def partial(place: Path, target: Target) -> Path:
    """The file under the name that it has until all is written."""
    return place / f".{target.name}.partial"


class _Cutting:
    """One run of the job."""

    def __init__(
        self, place: Path, mesh: Mesh, weights: Mapping[str, Weight], files: list[list[Target]], kept: Journal, bar: Progress | None
    ) -> None:
        self.place, self.mesh, self.weights, self.files, self.kept, self.bar = place, mesh, weights, files, kept, bar
        self.found = [{slot.name: target for target in mine for slot in target.slots} for mine in files]
        self.open: dict[str, int] = {}

    def run(self, made: Source, leaves: Mapping[str, Leaf]) -> int:
        """Write all weights; the bytes that were there already."""
        resumed = 0
        with ExitStack() as stack:
            self._reserve(stack)
            pool = stack.enter_context(ThreadPoolExecutor(min(_THREADS, self.mesh.size)))
            before = dict(self.kept.done)
            for name, weight in self.weights.items():
                size = nbytes(weight.shape, numpy_dtype(weight.dtype).itemsize)
                is_there = name in before and list(pool.map(lambda rank, n=name: self._sum(n, rank), range(self.mesh.size))) == before[name]
                if is_there:
                    resumed += size
                    sums = before[name]
                else:
                    sums = self._write(pool, fitting(leaves[name], made.tensor(name, weight.dtype)), name, size)
                self.kept.add(name, sums)
                if self.bar is not None:
                    self.bar.add(size, skipped=is_there)
            for target in (target for mine in self.files for target in mine):
                mine = {slot.name: self.kept.done[slot.name][target.rank] for slot in target.slots}
                self._put(target, target.header(mine), 0)
                os.fsync(self.open[target.name])
        if self.bar is not None:
            self.bar.close()
        return resumed

    def _reserve(self, stack: ExitStack) -> None:
        """Open all files, of their whole size. Raises `ShardingError` where the disk has no room."""
        every = [target for mine in self.files for target in mine]
        for target in every:
            path = partial(self.place, target)
            if self.kept.done and not path.exists() and (self.place / target.name).exists() and not (self.place / HEADER).exists():
                os.replace(self.place / target.name, path)  # it was interrupted when it renamed them
        there = sum(path.stat().st_blocks * 512 for path in (partial(self.place, target) for target in every) if path.exists())
        needed, free = sum(target.size for target in every) - there, shutil.disk_usage(self.place).free
        if needed > free:
            what = f"{size_text(needed)} are to be written, and its disk has {size_text(free)} free"
            raise ShardingError(str(self.place), what, "Make room, or choose another folder.")
        for target in every:
            descriptor = os.open(partial(self.place, target), os.O_RDWR | os.O_CREAT, 0o644)
            stack.callback(os.close, descriptor)
            os.ftruncate(descriptor, target.size)
            self.open[target.name] = descriptor

    def _write(self, pool: ThreadPoolExecutor, tensor: Tensor, name: str, size: int) -> list[str]:
        """Cut one weight for all workers; the checksum of each shard."""
        held = InMemory(tensor.where, whole(tensor)) if size <= HELD and not isinstance(tensor, InMemory) else tensor
        return list(pool.map(lambda rank: self._shard(held, name, rank), range(self.mesh.size)))

    def _shard(self, tensor: Tensor, name: str, rank: int) -> str:
        weight, target = self.weights[name], self.found[rank][name]
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
        target = self.found[rank][name]
        at, size = target.begins[name], next(slot.nbytes for slot in target.slots if slot.name == name)
        summed = hashlib.sha256()
        for begin in range(at, at + size, PIECE):
            summed.update(os.pread(self.open[target.name], min(PIECE, at + size - begin), begin))
        return summed.hexdigest()


def _finish(place: Path, header: Header, files: list[list[Target]], kept: Journal, old: Header | None) -> None:
    """Give all files their names, last the one that says that they are there."""
    made = place / f".{HEADER}.partial"
    with made.open("w") as file:
        file.write(dumps(header) + "\n")
        file.flush()
        os.fsync(file.fileno())
    (place / HEADER).unlink(missing_ok=True)
    for target in (target for mine in files for target in mine):
        os.replace(partial(place, target), place / target.name)
    os.replace(made, place / HEADER)
    descriptor = os.open(place, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    stale = {name for names in old.files for name in names} if old is not None else set[str]()
    for name in stale - {name for names in header.files for name in names}:
        (place / name).unlink(missing_ok=True)
    (place / NAME).unlink(missing_ok=True)
