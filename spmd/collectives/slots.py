"""The collectives of a program as data: what is carried (slots), and where the program does it (sites)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi


class CollectiveError(RuntimeError):
    """Workers that do not meet: they disagree on a collective, one failed or returned while others wait, or time is up."""


tvm_ffi.register_error(CollectiveError)


@dataclass(frozen=True)
class Record:
    """One tensor that one worker brought to a collective, as it ran.

    `bytes` is the size of the tensor that enters, on this worker; `dtype` is that of the value, and `shape` is as it was carried.
    `attrs` are what is the op's own: ``("sum",)`` for all_reduce, ``(dim,)`` for all_gather. Those of one call, a bundle,
    have the same `call`.
    """

    kind: str
    axis: str
    bytes: int
    dtype: str
    shape: tuple[int, ...]
    value: str
    attrs: tuple[Any, ...]
    call: int


@dataclass(frozen=True)
class Slot:
    """One way of moving tensors that a program asks for; its `name` is that of the function that a backend gives for it.

    That function takes the number of the site, the tensors of this worker, and as many tensors to write. That of axis_index takes
    the one to write alone.
    """

    operation: str
    axis: str
    workers: int
    dtype: str
    """The dtype of the tensor; those of a bundle are joined by ``+``."""
    kind: str = ""
    """What a reduction computes: "sum", "max" and so on; empty for other operations."""
    dims: tuple[int, ...] = ()
    """The dimension that grows or is cut; the one that is cut and the one that grows."""
    pairs: tuple[int, ...] = ()
    """Who sends to whom, flat: ``s0, t0, s1, t1, ...``"""
    root: int = -1

    @property
    def own(self) -> tuple[Any, ...]:
        """The attributes of the operation, as methods of `Communicator` take them."""
        by_operation: dict[str, tuple[Any, ...]] = {
            "all_reduce": (self.kind,),
            "reduce_scatter": (self.kind, *self.dims),
            "permute": (self.pairs,),
            "broadcast": (self.root,),
        }
        return by_operation.get(self.operation, self.dims)

    @property
    def dtypes(self) -> list[str]:
        """The dtype of each tensor."""
        return self.dtype.split("+")

    @property
    def name(self) -> str:
        """The global function that the program calls: ``spmd.all_reduce.tp.sum.float32``."""
        own = ["-".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in self.own]
        return ".".join(["spmd", self.operation, self.axis, *own, self.dtype])


@dataclass(frozen=True)
class Site:
    """One collective of the program's text: the number of its slot, and the names of what it moves."""

    slot: int
    values: tuple[str, ...]
    dtypes: tuple[str, ...]
    """The dtypes of the values; a slot may carry them as wider ones."""
    bundle: int = -1
    """Sites of one bundle whose tensors go apart have the same number."""


@dataclass(frozen=True)
class Slots:
    """All of a program."""

    slots: tuple[Slot, ...] = ()
    sites: tuple[Site, ...] = field(default=(), repr=False)

    def of(self, site: int) -> Slot:
        """The slot of a site, by its number."""
        return self.slots[self.sites[site].slot]

    def told(self, site: int, shapes: str = "") -> str:
        """A site in words, for errors."""
        slot, values = self.of(site), " and ".join(f"{value!r}, {shapes}".rstrip(", ") for value in self.sites[site].values)
        return f"{slot.operation}({', '.join(map(repr, slot.own))}) of {values}, over axis {slot.axis!r}"


Call = tuple[Slot, Site, list[Sequence[int]]]
"""A collective as it ran: how, what, and the shape of each tensor that entered."""


def records(calls: Iterable[Call]) -> tuple[Record, ...]:
    """What `trace` gives of the calls of a run; tensors of one bundle that went apart are of one call."""
    found: list[Record] = []
    number, bundle = -1, -1
    for slot, site, shapes in calls:
        number += site.bundle < 0 or site.bundle != bundle
        bundle = site.bundle
        for value, dtype, shape in zip(site.values, site.dtypes, shapes, strict=True):
            sizes = tuple(int(s) for s in shape)
            found.append(Record(slot.operation, slot.axis, _bytes(sizes, dtype), dtype, sizes, value, slot.own, number))
    return tuple(found)


def _bytes(sizes: tuple[int, ...], dtype: str) -> int:
    kind = tvm.DataType(dtype)
    return (math.prod(sizes) * kind.bits * kind.lanes + 7) // 8
