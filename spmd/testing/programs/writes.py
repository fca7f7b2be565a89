"""Kernels that write in place: at positions and indices from data, a part of what they are given, on top of what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax, s_tir, tirx

from .indexing import indices
from .maker import Maker, dtype_of, is_static, shape_of

STORE = "store"
"""The names of parameters that are written end so: rows of theirs are written whole, so that specs may split their other dimensions."""
_MORE = 2
"""How many rows a store has more than what is written."""


def in_place(m: Maker, x: Any) -> Any:
    """Rows of `x` written into a store: a parameter, a new value, or what was written before."""
    shape, dtype = shape_of(x), dtype_of(x)
    if len(shape) < 2 or not is_static(x):
        return None
    store = _store(m, [shape[0] + _MORE, *shape[1:]], dtype)
    kernel, more, growth = m.choose([_by_index, _from_position, _part, _added])(m, shape, dtype)
    function = m.bb.add_func(kernel, f"{m.name}_write")
    bound = m.bound(store) + growth * m.bound(x)
    m.know(store, bound)  # in what it holds from now on
    m.exact.discard(hash(store))
    m.read.add(hash(store))
    return relax.op.call_tir_inplace(function, relax.Tuple([store, x, *more]), [0], store.ty), bound


def _store(m: Maker, shape: list[int], dtype: str) -> Any:
    """What is written: one that was written before, a parameter, or a new value that nobody else reads."""
    known = [v for v in m.values if v.name.endswith(STORE) and shape_of(v) == shape and dtype_of(v) == dtype]
    if known and m.integer(0, 1):
        return m.choose(known)
    if m.integer(0, 2) == 0:
        return m.know(m.bb.emit(relax.op.full(shape, m.number(0.5, dtype), dtype), f"new_{len(m.values)}_{STORE}"), 1.0)
    store = m.parameter(shape, dtype, STORE)
    if m.integer(0, 1):
        m.values.append(store)  # which may be read before it is written, and after
    return store


def _by_index(m: Maker, shape: list[int], dtype: str) -> tuple[Any, list[Any], int]:
    """``store[where[r], ...] = x[r, ...]``."""
    where = tirx.decl_buffer((shape[0],), "int32", "where")
    kernel = _kernel(shape, dtype, [where], lambda store, x, i: ((where[i[0]], *i[1:]), x[tuple(i)]))
    return kernel, [m.bb.emit(indices(m, shape[0] + _MORE, [shape[0]], "int32"))], 1


def _from_position(m: Maker, shape: list[int], dtype: str) -> tuple[Any, list[Any], int]:
    """``store[clamped start + r, ...] = x[r, ...]``."""
    start, last = tirx.decl_buffer((1,), "int32", "start"), _MORE

    def stored(store: Any, x: Any, i: Sequence[Any]) -> Any:
        first = tirx.min(tirx.max(start[0], 0), last)
        return (first.astype("int64") + i[0], *i[1:]), x[tuple(i)]

    return _kernel(shape, dtype, [start], stored), [m.like([1], "int32")], 1


def _part(m: Maker, shape: list[int], dtype: str) -> tuple[Any, list[Any], int]:
    """The first rows only, each number with its column."""
    return _kernel(shape, dtype, [], lambda store, x, i: (tuple(i), x[tuple(i)] + i[-1].astype(dtype))), [], 1 + shape[-1]


def _added(m: Maker, shape: list[int], dtype: str) -> tuple[Any, list[Any], int]:
    """A kernel that adds to what is there, times a factor by position."""
    return (
        _kernel(shape, dtype, [], lambda store, x, i: (tuple(i), store[tuple(i)] + x[tuple(i)] * (i[-1] + 1).astype(dtype))),
        [],
        shape[-1],
    )


def _kernel(shape: list[int], dtype: str, more: list[Any], stored: Callable[[Any, Any, Sequence[Any]], Any]) -> Any:
    """A kernel over the elements of x; `stored` says where in the store, and what."""
    store = tirx.decl_buffer([tirx.IntImm("int64", s) for s in (shape[0] + _MORE, *shape[1:])], dtype, "store")
    x = tirx.decl_buffer([tirx.IntImm("int64", s) for s in shape], dtype, "x")
    iters = [tirx.Var(f"v{d}", "int64") for d in range(len(shape))]
    loops = [tirx.Var(f"i{d}", "int64") for d in range(len(shape))]
    extents = [tirx.IntImm("int64", s) for s in shape]
    indices, value = stored(store, x, iters)
    domains = [tirx.IterVar(tvm.ir.Range(0, e), v, tirx.IterVar.DataPar) for e, v in zip(extents, iters, strict=True)]
    read = [tirx.BufferRegion(b, [tvm.ir.Range(0, s) for s in b.ty.shape]) for b in (store, x, *more)]
    block = s_tir.SBlock(domains, read, read[:1], "write", tirx.BufferStore(store, value, indices))
    body: Any = s_tir.SBlockRealize(loops, True, block)
    for loop, extent in reversed(list(zip(loops, extents, strict=True))):
        body = tirx.For(loop, tirx.IntImm("int64", 0), extent, tirx.ForKind.SERIAL, body)
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
    return tirx.PrimFunc([store, x, *more], root, None, tvm.ir.make_node("ir.DictAttrs", **{"tirx.noalias": True}))
