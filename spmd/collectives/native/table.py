"""A C library of collectives as data: its functions, their arguments in order, its names for types and reductions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tvm

from spmd.collectives.slots import Slot

_UNSIGNED = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
_BITS = {"sum": "max", "prod": "min", "max": "max", "min": "min"}


@dataclass(frozen=True)
class Function:
    """A C function: what it is called, and what each argument is.

    ``source``, ``target``: addresses of what enters and leaves; ``count``: elements that enter; ``part``: those for or from each worker;
    any other word is a constant of the process and the slot. `pieces`: whether it may be called for one piece after another.
    """

    symbol: str
    arguments: str
    pieces: bool = False

    @property
    def words(self) -> list[str]:
        """The arguments."""
        return self.arguments.split()


@dataclass(frozen=True)
class Table:
    """A library. `most` is the largest count of one call; `types` and `kinds` have its names for dtypes and reductions."""

    name: str
    functions: Mapping[str, Function]
    types: Mapping[str, str]
    kinds: Mapping[str, str]
    count: str
    """The dtype of counts."""
    most: int

    def type_of(self, slot: Slot) -> str:
        """Its name for what a slot moves. What is not added up moves as unsigned numbers of the same width."""
        return self.types[slot.dtype if slot.kind and slot.dtype != "bool" else _UNSIGNED[itemsize(slot.dtype)]]

    def kind_of(self, slot: Slot) -> str:
        """Its name for the reduction of a slot. Of truth values, a sum is whether any is true, and a product whether all are."""
        return self.kinds[_BITS[slot.kind] if slot.dtype == "bool" else slot.kind]


def itemsize(dtype: str) -> int:
    """The bytes of an element."""
    kind = tvm.DataType(dtype)
    return (kind.bits * kind.lanes + 7) // 8
