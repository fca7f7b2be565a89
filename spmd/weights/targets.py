"""The files that weights are cut into: which tensors each has, and where their data begin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh

from .folder import CUT, SUMS, WORKER, WORKERS, Weight
from .safetensors import Slot, header

PATTERNS = {"spmd": "rank-{rank}-of-{workers}.safetensors", "vllm": "model-rank-{rank}-part-{part}.safetensors"}
"""How files are called. The second one is vLLM's ``sharded_state``, in which a worker may have several."""
_EMPTY = "0" * 64


@dataclass(frozen=True)
class Target:
    """A file that is to be written: whose it is, and its tensors."""

    name: str
    rank: int
    slots: tuple[Slot, ...]
    metadata: dict[str, str]

    def header(self, sums: Mapping[str, str]) -> bytes:
        """The header with these checksums; it has the same length whatever they are."""
        known = {slot.name: sums.get(slot.name, _EMPTY) for slot in self.slots}
        return header(self.slots, {"format": "pt", **self.metadata, SUMS: json.dumps(known, separators=(",", ":"))})

    @cached_property
    def begins(self) -> dict[str, int]:
        """The byte at which the data of each tensor begin."""
        at, found = len(self.header({})), dict[str, int]()
        for slot in self.slots:
            found[slot.name] = at
            at += slot.nbytes
        return found

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header({})) + sum(slot.nbytes for slot in self.slots)


def targets(mesh: Mesh, weights: Mapping[str, Weight], cut: str, layout: str, part_bytes: int | None) -> list[list[Target]]:
    """The files of each worker. A part has at most `part_bytes` of data, or one tensor that has more."""
    if part_bytes is not None and "{part}" not in PATTERNS[layout]:
        way_out = "Leave the bytes of a part out, or choose the layout vllm."
        raise ShardingError("weights", f"in the layout {layout!r} a worker has one file", way_out)
    found: list[list[Target]] = []
    for rank in range(mesh.size):
        parts: list[list[Slot]] = [[]]
        for name, weight in weights.items():
            slot = Slot(name, weight.sharding.at(weight.shape).local_shape(weight.shape, mesh), weight.dtype)
            if part_bytes is not None and parts[-1] and sum(s.nbytes for s in parts[-1]) + slot.nbytes > part_bytes:
                parts.append([])
            parts[-1].append(slot)
        metadata = {WORKER: str(rank), WORKERS: str(mesh.size), CUT: cut}
        names = (PATTERNS[layout].format(rank=rank, workers=mesh.size, part=part) for part in range(len(parts)))
        found.append([Target(name, rank, tuple(slots), metadata) for name, slots in zip(names, parts, strict=True)])
    return found
