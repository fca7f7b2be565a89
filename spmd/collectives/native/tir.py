"""The TIR that carriers are written in: memory at addresses, what a carrier moves, and calls of C functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx import script
from tvm.tirx.script import builder as T

Expr = Any  # tirx.Expr: TVM ships no types
DATA, SHAPE, NDIM, OFFSET = 1, 2, 4, 8  # fields of a DLTensor, as tvm_struct_get numbers them


@dataclass(frozen=True)
class Moved:
    """A tensor that enters a collective: the addresses of what enters and of what leaves, the elements that enter, and their dtype."""

    source: Expr
    target: Expr
    count: Expr
    dtype: str
    size: int
    """The bytes of an element."""

    def bytes(self, many: Expr) -> Expr:
        """Those of so many elements."""
        return many * T.int64(self.size)

    def read(self, first: Expr) -> Expr:
        """The address of an element of what enters."""
        return T.handle_add_byte_offset(self.source, self.bytes(first))

    def written(self, first: Expr) -> Expr:
        """The address of an element of what leaves."""
        return T.handle_add_byte_offset(self.target, self.bytes(first))


@dataclass(frozen=True)
class Brought:
    """What a worker comes to a collective with, for the others to see: the number of its site, the elements of all tensors that enter, and
    a number that stands for the site and all sizes.
    """

    site: Expr
    count: Expr
    mark: Expr


Moves = Callable[[Sequence[Moved], Brought], None]
"""Writes the TIR that moves the tensors of one collective."""


def address(tensor: Expr) -> Expr:
    """Where the elements of a DLTensor begin."""
    data = script.tvm_struct_get(tensor, 0, DATA, "handle")
    return T.handle_add_byte_offset(data, T.cast(script.tvm_struct_get(tensor, 0, OFFSET, "uint64"), "int64"))


def at(number: int) -> Expr:
    """An address of this process."""
    return T.reinterpret("handle", T.uint64(number))


def memory(where: Expr, elements: int, dtype: str = "int64") -> Any:
    """So many elements at an address, as a buffer."""
    kind = tvm.ir.PointerType(tvm.ir.PrimType(dtype))
    return T.decl_buffer((elements,), dtype, data=T.bind(T.reinterpret(kind, where), kind))


def add(numbers: Any, field: int, more: int = 1) -> None:
    """Adds to a number of a buffer of int64."""
    T.buffer_store(numbers, numbers[T.int64(field)] + T.int64(more), [T.int64(field)])


def demand(condition: Expr, message: str) -> None:
    """Fails with a message unless a condition holds."""
    with T.Assert(condition, message):
        pass
