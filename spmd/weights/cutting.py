"""Cutting a checkpoint for all workers: each gets its own safetensors files, written piece by piece, finished or not there at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spmd import checks
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.placement.dtypes import numpy_dtype
from spmd.plan.decisions import Leaf
from spmd.plan.model import Plan
from spmd.plan.serialize import dumps

from .checkpoint import fitting, source
from .folder import HEADER, Folder, Header, Weight, fingerprint
from .job import Job, partial
from .journal import NAME, journal
from .partition import weight_leaves
from .progress import Progress
from .targets import PATTERNS, Target, targets
from .tensors import Source, Tensor


@dataclass(frozen=True)
class Written:
    """What `write` made."""

    folder: Path
    bytes: int
    """The bytes of all files."""
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
    place, names, size = Path(folder), made.names(), sum(target.size for mine in files for target in mine)
    place.mkdir(parents=True, exist_ok=True)
    unused = tuple(sorted(set(names) - weights.keys())) if names is not None else ()
    old = _old(place)
    if old is not None and old == header:
        return Written(place, size, size, unused)
    with journal(place, header.job) as kept:
        bar = Progress(sum(weight.nbytes for weight in weights.values())) if progress else None
        resumed = Job(place, plan.mesh, weights, files, kept).run(lambda name: _tensor(made, leaves[name]), bar)
        _finish(place, header, files, old)
    return Written(place, size, resumed, unused)


def _in_order(leaves: Mapping[str, Leaf]) -> list[Leaf]:
    """Those of wide elements first, so that each tensor begins where its dtype can be read in place."""
    return sorted(leaves.values(), key=lambda leaf: -numpy_dtype(leaf.dtype).itemsize)


def _weight(made: Source, leaf: Leaf) -> Weight:
    """What is known of a weight before it is read. A function from names to arrays is not called for it where the plan says the shape."""
    assert leaf.sharding is not None
    sizes = tuple(size for size in leaf.shape or () if isinstance(size, int))
    known = made.names() is None and len(sizes) == len(leaf.shape or ())
    return Weight(sizes if known else _tensor(made, leaf).shape, leaf.dtype, leaf.sharding)


def _tensor(made: Source, leaf: Leaf) -> Tensor:
    return fitting(leaf, made.tensor(leaf.name, leaf.dtype))


def _old(place: Path) -> Header | None:
    """What is in the folder already, if it is whole."""
    try:
        found = Folder.of(place).header
    except (ShardingError, OSError):
        return None
    return found if all((place / name).is_file() for names in found.files for name in names) else None


def _finish(place: Path, header: Header, files: list[list[Target]], old: Header | None) -> None:
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
