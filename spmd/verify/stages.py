"""What a PrimFunc computes, as a list of definitions: each element of a buffer as an expression, which may be reduced over variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from .expressions import is_float
from .field import NEG, POS, of_float
from .indices import NoRelation

_REDUCE = 2
_COMBINERS = {"Add": "sum", "Mul": "prod", "Max": "max", "Min": "min"}
Pattern = tuple[Any, ...]
"""An expression of TIR as plain data: its kind, then what it is made of; variables and buffers are those of TIR."""


@dataclass(frozen=True)
class Stage:
    """The definition of a buffer: variables of its dimensions, and those that it is reduced over, each with how far it goes."""

    buffer: Any
    dims: tuple[tuple[Any, Pattern], ...]
    kind: str | None
    reduced: tuple[tuple[Any, Pattern], ...]
    body: Pattern


@dataclass(frozen=True)
class Stages:
    """The parameters of a PrimFunc, in order, each with its sizes where it is a buffer, and its definitions."""

    params: tuple[tuple[Any, tuple[Pattern, ...] | None], ...]
    stages: tuple[Stage, ...]


def of_kernel(func: tirx.PrimFunc) -> Stages:
    """The definitions of a PrimFunc, or `NoRelation` where it is none of nests of loops around one block each."""
    params: list[Any] = []
    for p in func.params:
        params.append((p, tuple(map(pattern, p.ty.shape)) if isinstance(p.ty, tirx.BufferType) else None))
    body = func.body
    if isinstance(body, s_tir.SBlockRealize):
        body = body.block.body
    parts = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    stages = tuple(map(_stage, parts))
    if len({stage.buffer for stage in stages}) < len(stages):
        raise NoRelation("a kernel that writes a buffer twice")
    return Stages(tuple(params), stages)


def _stage(s: Any) -> Stage:
    loops: dict[Any, Any] = {}
    while isinstance(s, tirx.For):
        if not _is(s.min, 0):
            raise NoRelation("a kernel with a loop that begins elsewhere than at zero")
        loops[s.loop_var] = s.extent
        s = s.body
    if not isinstance(s, s_tir.SBlockRealize) or not isinstance(s.block.body, tirx.BufferStore) or s.block.alloc_buffers:
        raise NoRelation("a kernel that is no list of loops around a block")
    block, store = s.block, s.block.body
    if not _is(s.predicate, 1):
        raise NoRelation("a kernel with a condition around a block")
    extents: dict[Any, Any] = {}
    for it, value in zip(block.iter_vars, s.iter_values, strict=True):
        extent = loops.pop(value, None) if isinstance(value, tvm.ir.Var) else tirx.IntImm("int64", 1) if _is(value, 0) else None
        if (
            extent is None
            or not _is(it.dom.min, 0)
            or not tvm_ffi.structural_equal(extent, it.dom.extent)
            or int(it.iter_type) not in (0, _REDUCE)
        ):
            raise NoRelation("a kernel whose block takes no loop as it is")
        extents[it.var] = extent
    if any(not _is(n, 1) for n in loops.values()):
        raise NoRelation("a kernel with a loop that its block does not take")
    reduced = [it.var for it in block.iter_vars if int(it.iter_type) == _REDUCE]
    dims: list[tuple[Any, Pattern]] = []
    for index, size in zip(store.indices, store.buffer.ty.shape, strict=True):
        own = extents.get(index) if isinstance(index, tvm.ir.Var) else None
        if own is None and not (_is(index, 0) and _is(size, 1)):
            raise NoRelation("a kernel that writes elsewhere than at the variables of its block")
        if own is not None and (index in reduced or any(index is v or v.same_as(index) for v, _ in dims)):
            raise NoRelation("a kernel that writes a place several times")
        dims.append((index, pattern(size)))
        if own is not None and not tvm_ffi.structural_equal(own, size):
            raise NoRelation("a kernel that writes a part of a buffer")
    written = [v for v, _ in dims]
    if any(it.var not in reduced and not any(it.var.same_as(v) for v in written) and not _is(extents[it.var], 1) for it in block.iter_vars):
        raise NoRelation("a kernel that writes a place several times")
    kind, value = (None, store.value) if not reduced and block.init is None else _reduction(block, store)
    return Stage(store.buffer, tuple(dims), kind, tuple((v, pattern(extents[v])) for v in reduced), pattern(value, store.buffer))


def _reduction(block: Any, store: Any) -> tuple[str, Any]:
    """The kind of a reduction, and what is reduced."""
    kind, init = _COMBINERS.get(type(store.value).__name__), block.init
    if kind is None or not isinstance(init, tirx.BufferStore) or not _is_own(store.value.a, store):
        raise NoRelation("a reduction of another form")
    dtype, first = str(store.buffer.ty.dtype.dtype), init.value
    if not isinstance(first, tirx.FloatImm | tirx.IntImm):
        raise NoRelation("a reduction that begins with what is no number")
    if is_float(dtype):
        neutral = {"sum": 0, "prod": 1, "max": NEG, "min": POS}[kind] == of_float(float(first.value), dtype)
    else:
        bounds = {"max": tirx.min_value, "min": tirx.max_value}
        neutral = int(first) == (int(bounds[kind](dtype)) if kind in bounds else int(kind == "prod"))
    if not neutral:
        raise NoRelation("a reduction that begins with another number")
    return kind, store.value.b


def _is(e: Any, value: int) -> bool:
    return isinstance(e, tirx.IntImm) and int(e) == value


def _is_own(e: Any, store: Any) -> bool:
    if not isinstance(e, tvm.ir.TensorLoad) or not e.source.same_as(store.buffer):
        return False
    return all(tvm_ffi.structural_equal(i, j) for i, j in zip(e.indices, store.indices, strict=True))


def pattern(e: Any, own: Any = None) -> Pattern:
    """An expression as plain data; it may not read `own`."""
    name = type(e).__name__
    if isinstance(e, tvm.ir.Var):
        return ("var", e)
    if isinstance(e, int):
        return ("int", e)
    dtype = str(e.ty.dtype)
    if isinstance(e, tirx.IntImm):
        return ("bool", bool(int(e))) if dtype == "bool" else ("int", int(e))
    if isinstance(e, tirx.FloatImm):
        return ("const", of_float(float(e.value), dtype))
    if isinstance(e, tvm.ir.TensorLoad):
        if e.source.same_as(own):
            raise NoRelation("a kernel that reads what it writes")
        return ("load", e.source, tuple(pattern(i, own) for i in e.indices))
    if isinstance(e, tirx.Cast):
        return ("cast", dtype, str(e.value.ty.dtype), pattern(e.value, own))
    if isinstance(e, tirx.Select):
        return ("select", *(pattern(part, own) for part in (e.condition, e.true_value, e.false_value)))
    if isinstance(e, tirx.Not):
        return ("not", pattern(e.a, own))
    if isinstance(e, tvm.ir.Call) and isinstance(e.op, tvm.ir.Op):
        called = e.op.name.split(".")[-1]
        args = tuple(pattern(arg, own) for arg in e.args)
        if called == "if_then_else":
            return ("select", *args)
        if called in ("likely", "tvm_thread_invariant"):
            return args[0]
        if not _is_pure(e):
            raise NoRelation(f"a kernel that calls {called}")
        return ("call", f"{called}:{dtype}", args)
    if hasattr(e, "a") and hasattr(e, "b"):
        return ("binary", name, dtype, str(e.a.ty.dtype), pattern(e.a, own), pattern(e.b, own))
    raise NoRelation(f"a kernel with {name}")


def _is_pure(call: Any) -> bool:
    """Whether a function of TIR gives the same for the same."""
    return call.op.get_attr("TCallEffectKind") in (0, 1) and not call.op.name.split(".")[-1].startswith("tvm_")
