"""A C library of collectives as data: its functions, their arguments in order, its names for types and reductions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm

from spmd.collectives.slots import Slot

_UNSIGNED = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
_BITS = {"sum": "max", "prod": "min", "max": "max", "min": "min"}


@dataclass(frozen=True)
class Function:
    """A C function: what it is called, and what each argument is.

    ``source``, ``target``: addresses of what enters and leaves; ``count``, ``bytes``: all that enters; ``part``: the elements for or from
    each worker, ``peer``: which one; ``position``: where this worker's number along the axis lies; any other word is a constant of the
    process and the slot.
    """

    symbol: str
    arguments: str
    pieces: bool = False
    """Whether it may be called for one piece after another."""
    each: bool = False
    """Whether it is called for each worker along the axis, with that one's part of what enters or leaves."""
    when: str = ""
    """The constant without which it is not called."""
    gives: str = "int32"
    """The dtype of what it returns; a number is 0 when all is well."""

    @property
    def words(self) -> list[str]:
        """The arguments."""
        return self.arguments.split()


@dataclass(frozen=True)
class Table:
    """A library. `functions` are those that an operation calls, one after the other; `types` and `kinds` have its names for dtypes and
    reductions.
    """

    name: str
    functions: Mapping[str, Sequence[Function]]
    types: Mapping[str, str]
    kinds: Mapping[str, str]
    count: str
    """The dtype of counts."""
    most: int
    """The largest count of one call."""
    group: Sequence[Function] = ()
    """What is called before and after calls that go together."""

    def type_of(self, slot: Slot, dtype: str) -> str:
        """Its name for what a slot moves. What is not added up moves as unsigned numbers of the same width."""
        return self.types[reduced_as(slot, dtype)[1] if slot.kind else _UNSIGNED[itemsize(dtype)]]

    def kind_of(self, slot: Slot, dtype: str) -> str:
        """Its name for the reduction of a slot."""
        return self.kinds[reduced_as(slot, dtype)[0]]

    @property
    def symbols(self) -> list[str]:
        """The symbols of all functions that carriers call."""
        called = [*self.group, *(function for functions in self.functions.values() for function in functions)]
        return list(dict.fromkeys(function.symbol for function in called))


def reduced_as(slot: Slot, dtype: str) -> tuple[str, str]:
    """How a slot reduces a tensor: the kind and the dtype. Of truth values, a sum is whether any is true, and a product whether all are."""
    return (_BITS[slot.kind], _UNSIGNED[1]) if dtype == "bool" else (slot.kind, dtype)


def itemsize(dtype: str) -> int:
    """The bytes of an element."""
    kind = tvm.DataType(dtype)
    return (kind.bits * kind.lanes + 7) // 8
