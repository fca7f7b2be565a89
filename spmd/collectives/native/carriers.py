"""Host functions in TIR that carry collectives by calling a C library, with the handles of this process as constants.

Each notes on the process's row of the board where it is, before and after, and adds to the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import script
from tvm.tirx.script import builder as T

from spmd.collectives.slots import Slot

from .board import AXES, BEGUN, COUNT, DONE, KEPT, RECORD, SITE, Row, Trace
from .table import Function, Table, itemsize

Expr = Any  # tirx.Expr: TVM ships no types
_DATA, _SHAPE, _NDIM, _OFFSET = 1, 2, 4, 8  # fields of a DLTensor, as tvm_struct_get numbers them
_MOST_DIMS = RECORD - 2
_HOST = {"tirx.is_scheduled": True, "tirx.is_host_func": True, "op_pattern": 8}


def compiled(functions: Mapping[str, Any]) -> dict[str, Callable[..., None]]:
    """The functions of these names, ready to be called."""
    numbered = {name: f"carrier_{i}" for i, name in enumerate(functions)}
    if not functions:
        return {}
    made = tvm.compile(tvm.IRModule({numbered[n]: f.with_attr("global_symbol", numbered[n]) for n, f in functions.items()}), "llvm")
    return {name: made[numbered[name]] for name in functions}


def constant(value: int) -> Any:
    """The function that writes a number: a position along an axis."""
    with IRBuilder() as made, T.prim_func(s_tir=True):
        T.func_name("carrier")
        out = T.arg("out", T.handle())
        T.func_attr(_HOST)
        T.buffer_store(_memory(_address(out), 1), T.int64(value), [T.int64(0)])
    return made.get()


def carrier(slot: Slot, axis: int, table: Table, constants: Mapping[str, Expr], row: Row, trace: Trace) -> Any:
    """The function of a slot over the axis of this number: ``(site, x, out)``. `constants` are the arguments that no call changes."""
    function, size = table.functions[slot.operation], itemsize(slot.dtype)
    with IRBuilder() as made, T.prim_func(s_tir=True):
        T.func_name("carrier")
        site, x, out = T.arg("site", T.int64()), T.arg("x", T.handle()), T.arg("out", T.handle())
        T.func_attr(_HOST)
        source, target = T.bind(_address(x)), T.bind(_address(out))
        count = _noted(trace, site, x)
        numbers = _memory(T.reinterpret("handle", T.uint64(row.address)), AXES + axis + 1)
        for field, value in ((SITE, site), (COUNT, count)):
            T.buffer_store(numbers, value, [T.int64(field)])
        _add_one(numbers, AXES + axis)
        _add_one(numbers, BEGUN)
        if slot.operation == "broadcast" and "is_root" in constants:
            T.evaluate(T.call_extern("handle", "memcpy", target, source, count * T.int64(size)))
        if slot.operation == "permute" and "is_idle" in constants:
            T.evaluate(T.call_extern("handle", "memset", target, T.int32(0), count * T.int64(size)))
        _called(slot, function, table, dict(constants), source, target, count, size)
        _add_one(numbers, DONE)
    return made.get()


def _called(
    slot: Slot, function: Function, table: Table, words: dict[str, Expr], source: Expr, target: Expr, count: Expr, size: int
) -> None:
    """The call of the library, or one for each piece."""

    def call(begin: Expr, many: Expr) -> None:
        at = {"source": T.handle_add_byte_offset(source, begin), "target": T.handle_add_byte_offset(target, begin)}
        part = T.floordiv(many, T.int64(slot.workers))
        given = {**words, **at, "count": T.cast(many, table.count), "part": T.cast(part, table.count)}
        code = T.bind(T.call_extern("int32", function.symbol, *(given[word] for word in function.words)))
        _demand(code == T.int32(0), f"{function.symbol} failed in {slot.operation} over axis {slot.axis!r}")

    if function.pieces:
        with T.serial(T.int64(0), T.ceildiv(count, T.int64(table.most))) as piece:
            first = T.bind(piece * T.int64(table.most))
            call(first * T.int64(size), T.bind(T.min(T.int64(table.most), count - first)))
    else:
        _demand(count <= T.int64(table.most), f"{slot.operation} over axis {slot.axis!r} of more elements than {table.name} moves at once")
        call(T.int64(0), count)


def _noted(trace: Trace, site: Expr, x: Expr) -> Expr:
    """Adds the site and the shape of `x` to the trace; the number of its elements."""
    ints = tvm.ir.PointerType(tvm.ir.PrimType("int64"))
    rank = T.bind(script.tvm_struct_get(x, 0, _NDIM, "int32"))
    _demand(rank <= T.int32(_MOST_DIMS), f"a tensor of more than {_MOST_DIMS} dimensions enters a collective")
    shape = T.decl_buffer((_MOST_DIMS,), "int64", data=T.bind(script.tvm_struct_get(x, 0, _SHAPE, ints), ints))
    kept = _memory(T.reinterpret("handle", T.uint64(trace.address)), RECORD * (KEPT + 1))
    place = T.bind((kept[T.int64(0)] % T.int64(KEPT) + T.int64(1)) * T.int64(RECORD))
    T.buffer_store(kept, site, [place])
    T.buffer_store(kept, T.cast(rank, "int64"), [place + T.int64(1)])
    count = T.int64(1)
    for i in range(_MOST_DIMS):
        length = T.bind(T.if_then_else(rank > T.int32(i), shape[T.int64(i)], T.int64(1)))
        T.buffer_store(kept, length, [place + T.int64(2 + i)])
        count = count * length
    _add_one(kept, 0)
    return T.bind(count)


def _address(tensor: Expr) -> Expr:
    data = script.tvm_struct_get(tensor, 0, _DATA, "handle")
    return T.handle_add_byte_offset(data, T.cast(script.tvm_struct_get(tensor, 0, _OFFSET, "uint64"), "int64"))


def _memory(address: Expr, numbers: int) -> Any:
    """So many int64 at an address."""
    ints = tvm.ir.PointerType(tvm.ir.PrimType("int64"))
    return T.decl_buffer((numbers,), "int64", data=T.bind(T.reinterpret(ints, address), ints))


def _add_one(numbers: Any, field: int) -> None:
    T.buffer_store(numbers, numbers[T.int64(field)] + T.int64(1), [T.int64(field)])


def _demand(condition: Expr, message: str) -> None:
    with T.Assert(condition, message):
        pass
