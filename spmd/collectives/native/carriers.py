"""Host functions in TIR that carry collectives with the handles of this process as constants, and no Python.

Each notes on the process's row of the board where it is, before and after, and adds to the trace. What moves the tensors is
written by another: calls of a C library (`calls`), or memory that processes share (`shared`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import chain
from operator import mul
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import script
from tvm.tirx.script import builder as T

from spmd.collectives.slots import Slot

from .board import AXES, BEGUN, COUNT, DONE, KEPT, RECORD, SITE, Row, Trace
from .table import itemsize
from .tir import NDIM, SHAPE, Brought, Expr, Moved, Moves, add, address, at, demand, memory

_PIPELINE = "spmd.carriers"
_MOST_DIMS = RECORD - 3
_MIXED = 0x5E3779B97F4A7C15  # odd: no two numbers become one when they are multiplied by it
_HOST = {"tirx.is_scheduled": True, "tirx.is_host_func": True, "op_pattern": 8}


def compiled(functions: Mapping[str, Any]) -> dict[str, Callable[..., None]]:
    """The functions of these names, ready to be called: code for this very processor."""
    numbered = {name: f"carrier_{i}" for i, name in enumerate(functions)}
    if not functions:
        return {}
    target = {"kind": "llvm", "mcpu": tvm.get_global_func("target.llvm_get_system_cpu")(), "opt-level": 1}
    mod = tvm.IRModule({numbered[n]: f.with_attr("global_symbol", numbered[n]) for n, f in functions.items()})
    made = tirx.build(mod, target, pipeline=_PIPELINE)
    return {name: made[numbered[name]] for name in functions}


def _lowered() -> tuple[Any, Callable[[], Any], Callable[[], Any]]:
    """What such functions need of TVM's passes: most of the time that it takes goes to schedules and devices, of which they have none."""
    passes = [
        tirx.transform.FlattenBuffer(),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
    ]
    _, host, device = tirx.get_tir_pipeline("default")
    return tvm.ir.transform.Sequential(passes), host, device


tirx.register_tir_pipeline(_PIPELINE, _lowered)


def position(moves: Moves) -> Any:
    """The function ``(out)`` of a slot that asks where this worker is."""
    with IRBuilder() as made, T.prim_func(s_tir=True):
        T.func_name("carrier")
        out = T.arg("out", T.handle())
        T.func_attr(_HOST)
        target = T.bind(address(out))
        moves([Moved(target, target, T.int64(1), "int64", 8)], Brought(T.int64(-1), T.int64(1), T.uint64(0)))
    return made.get()


def carrier(slot: Slot, axis: int, row: Row, trace: Trace, moves: Moves) -> Any:
    """The function of a slot over the axis of this number: ``(site, *xs, *outs)``."""
    with IRBuilder() as made, T.prim_func(s_tir=True):
        T.func_name("carrier")
        site = T.arg("site", T.int64())
        xs, outs = ([T.arg(f"{name}{i}", T.handle()) for i in range(len(slot.dtypes))] for name in ("x", "out"))
        T.func_attr(_HOST)
        sizes = [_noted(trace, site, x, place) for place, x in enumerate(xs)]
        counts = [T.bind(reduce(mul, lengths)) for lengths in sizes]
        brought = Brought(site, T.bind(sum(counts[1:], counts[0])), T.bind(_mark(site, sizes)))
        numbers = memory(at(row.address), AXES + axis + 1)
        for field, value in ((SITE, site), (COUNT, brought.count)):
            T.buffer_store(numbers, value, [T.int64(field)])
        add(numbers, AXES + axis)
        add(numbers, BEGUN)
        moves(
            [
                Moved(T.bind(address(x)), T.bind(address(out)), count, dtype, itemsize(dtype))
                for x, out, count, dtype in zip(xs, outs, counts, slot.dtypes, strict=True)
            ],
            brought,
        )
        add(numbers, DONE)
    return made.get()


def _mark(site: Expr, sizes: Sequence[Sequence[Expr]]) -> Expr:
    """A number for a site and the sizes brought to it."""
    mark = T.cast(site, "uint64")
    for length in chain.from_iterable(sizes):
        mark = T.bind(T.bitwise_xor(mark, T.cast(length, "uint64")) * T.uint64(_MIXED))
    return mark


def _noted(trace: Trace, site: Expr, x: Expr, place: int) -> list[Expr]:
    """Adds the site and the shape of `x`, the tensor of this place in it, to the trace; its sizes, 1 for what it lacks."""
    ints = tvm.ir.PointerType(tvm.ir.PrimType("int64"))
    rank = T.bind(script.tvm_struct_get(x, 0, NDIM, "int32"))
    demand(rank <= T.int32(_MOST_DIMS), f"a tensor of more than {_MOST_DIMS} dimensions enters a collective")
    shape = T.decl_buffer((_MOST_DIMS,), "int64", data=T.bind(script.tvm_struct_get(x, 0, SHAPE, ints), ints))
    kept = memory(at(trace.address), RECORD * (KEPT + 1))
    row = T.bind((kept[T.int64(0)] % T.int64(KEPT) + T.int64(1)) * T.int64(RECORD))
    for i, number in enumerate((site, T.int64(place), T.cast(rank, "int64"))):
        T.buffer_store(kept, number, [row + T.int64(i)])
    sizes = [T.bind(T.if_then_else(rank > T.int32(i), shape[T.int64(i)], T.int64(1))) for i in range(_MOST_DIMS)]
    for i, length in enumerate(sizes):
        T.buffer_store(kept, length, [row + T.int64(RECORD - _MOST_DIMS + i)])
    add(kept, 0)
    return sizes
