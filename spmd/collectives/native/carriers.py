"""Host functions in TIR that carry collectives by calling a C library, with the handles of this process as constants.

Each notes on the process's row of the board where it is, before and after, and adds to the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
_MOST_DIMS = RECORD - 3
_HOST = {"tirx.is_scheduled": True, "tirx.is_host_func": True, "op_pattern": 8}


def compiled(functions: Mapping[str, Any]) -> dict[str, Callable[..., None]]:
    """The functions of these names, ready to be called."""
    numbered = {name: f"carrier_{i}" for i, name in enumerate(functions)}
    if not functions:
        return {}
    made = tvm.compile(tvm.IRModule({numbered[n]: f.with_attr("global_symbol", numbered[n]) for n, f in functions.items()}), "llvm")
    return {name: made[numbered[name]] for name in functions}


def position(slot: Slot, table: Table, constants: Mapping[str, Expr]) -> Any:
    """The function ``(out)`` of a slot that asks where this worker is: it copies the number from where it lies to where `out` is."""
    with IRBuilder() as made, T.prim_func(s_tir=True):
        T.func_name("carrier")
        out = T.arg("out", T.handle())
        T.func_attr(_HOST)
        for function in table.functions[slot.operation]:
            _call(slot, function, {**constants, "target": T.bind(_address(out)), "bytes": T.uint64(8)})
    return made.get()


def carrier(slot: Slot, axis: int, table: Table, constants: Sequence[Mapping[str, Expr]], row: Row, trace: Trace) -> Any:
    """The function of a slot over the axis of this number: ``(site, *xs, *outs)``. `constants` are, for each of its tensors, the
    arguments that no call changes.
    """
    with IRBuilder() as made, T.prim_func(s_tir=True):
        T.func_name("carrier")
        site = T.arg("site", T.int64())
        xs, outs = ([T.arg(f"{name}{i}", T.handle()) for i in range(len(constants))] for name in ("x", "out"))
        T.func_attr(_HOST)
        counts = [_noted(trace, site, x, place) for place, x in enumerate(xs)]
        numbers = _memory(T.reinterpret("handle", T.uint64(row.address)), AXES + axis + 1)
        for field, value in ((SITE, site), (COUNT, sum(counts[1:], counts[0]))):
            T.buffer_store(numbers, value, [T.int64(field)])
        _add_one(numbers, AXES + axis)
        _add_one(numbers, BEGUN)
        calls = [[f for f in table.functions[slot.operation] if not f.when or f.when in words] for words in constants]
        together = table.group if any(f.each for f in calls[0]) or sum(map(len, calls)) > 1 else ()
        for function in together[:1]:
            _call(slot, function, {})
        for functions, words, x, out, count, dtype in zip(calls, constants, xs, outs, counts, slot.dtypes, strict=True):
            given = {**words, "source": T.bind(_address(x)), "target": T.bind(_address(out))}
            for function in functions:
                _called(slot, function, table, given, count, itemsize(dtype))
        for function in together[1:]:
            _call(slot, function, {})
        _add_one(numbers, DONE)
    return made.get()


def _called(slot: Slot, function: Function, table: Table, words: Mapping[str, Expr], count: Expr, size: int) -> None:
    """The call of a function for all of a tensor, or one for each piece or each worker."""

    def call(many: Expr, begins: Mapping[str, Expr], **more: Expr) -> None:
        at = {word: T.handle_add_byte_offset(words[word], begin * T.int64(size)) for word, begin in begins.items()}
        part = T.floordiv(many, T.int64(slot.workers))
        counts = {"count": T.cast(many, table.count), "part": T.cast(part, table.count), "bytes": T.cast(many * T.int64(size), "uint64")}
        _call(slot, function, {**words, **at, **counts, **more})

    if not function.pieces and {"count", "part"} & set(function.words):
        _demand(count <= T.int64(table.most), f"{slot.operation} over axis {slot.axis!r} of more elements than {table.name} moves at once")
    if function.pieces:
        with T.serial(T.int64(0), T.ceildiv(count, T.int64(table.most))) as piece:
            first = T.bind(piece * T.int64(table.most))
            call(T.bind(T.min(T.int64(table.most), count - first)), {"source": first, "target": first})
    elif function.each:
        with T.serial(T.int64(0), T.int64(slot.workers)) as peer:
            first = T.bind(peer * T.floordiv(count, T.int64(slot.workers)))
            call(count, {"source": first, "target": first}, peer=T.cast(peer, "int32"))
    else:
        call(count, {})


def _call(slot: Slot, function: Function, words: Mapping[str, Expr]) -> None:
    called = T.call_extern(function.gives, function.symbol, *(words[word] for word in function.words))
    if function.gives == "int32":
        _demand(T.bind(called) == T.int32(0), f"{function.symbol} failed in {slot.operation} over axis {slot.axis!r}")
    else:
        T.evaluate(called)


def _noted(trace: Trace, site: Expr, x: Expr, place: int) -> Expr:
    """Adds the site and the shape of `x`, the tensor of this place in it, to the trace; the number of its elements."""
    ints = tvm.ir.PointerType(tvm.ir.PrimType("int64"))
    rank = T.bind(script.tvm_struct_get(x, 0, _NDIM, "int32"))
    _demand(rank <= T.int32(_MOST_DIMS), f"a tensor of more than {_MOST_DIMS} dimensions enters a collective")
    shape = T.decl_buffer((_MOST_DIMS,), "int64", data=T.bind(script.tvm_struct_get(x, 0, _SHAPE, ints), ints))
    kept = _memory(T.reinterpret("handle", T.uint64(trace.address)), RECORD * (KEPT + 1))
    row = T.bind((kept[T.int64(0)] % T.int64(KEPT) + T.int64(1)) * T.int64(RECORD))
    for i, number in enumerate((site, T.int64(place), T.cast(rank, "int64"))):
        T.buffer_store(kept, number, [row + T.int64(i)])
    count = T.int64(1)
    for i in range(_MOST_DIMS):
        length = T.bind(T.if_then_else(rank > T.int32(i), shape[T.int64(i)], T.int64(1)))
        T.buffer_store(kept, length, [row + T.int64(RECORD - _MOST_DIMS + i)])
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
