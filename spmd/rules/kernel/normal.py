"""The normal form from which factors are read: known sizes put in, and plain loops around every block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from spmd.ir.expressions import static, variables

_NO_CHECK, _BIJECTIVE = 3, 0


def normalized(func: tirx.PrimFunc, known: Mapping[Any, int] | None = None) -> tirx.PrimFunc:
    """`func` with the symbolic sizes in `known` replaced, and with fused, split or guarded loops unfused; it is not changed itself."""
    if known:
        func = _specialized(func, known)
    body = tvm_ffi.structural_mutate(func.body, [(tirx.For, _own_loops)])
    return func if body.same_as(func.body) else tirx.PrimFunc(list(func.params), body, func.ret_type, func.attrs)


def is_true(expr: Any) -> bool:
    """Whether a predicate says nothing."""
    return expr is True or static(expr) == 1


def split_parts(indices: Sequence[Any], extents: Mapping[Any, Any], predicate: Any = True, *, bijective: bool = False) -> Any:
    """What TVM's iterator analysis says of `indices` over loops from 0: one `IterSumExpr` each, or nothing."""
    ranges = {v: tvm.ir.Range.from_min_extent(tirx.IntImm(str(v.ty.dtype), 0), e) for v, e in extents.items()}
    return tvm.sym.detect_iter_map(list(indices), ranges, predicate, check_level=_BIJECTIVE if bijective else _NO_CHECK).indices


def terms(part: Any, scale: int = 1) -> list[tuple[Any, int, int, int]] | None:
    """``(variable, product of what is minor to it, extent, scale)`` of each term of an `IterSumExpr`; None for a part of a sum."""
    found: list[tuple[Any, int, int, int]] = []
    for split in part.args:
        low, extent, own = static(split.lower_factor), static(split.extent), static(split.scale)
        source = split.source.source
        if low is None or extent is None or own is None:
            return None
        if isinstance(source, tvm.ir.Var):
            found.append((source, low, extent, own * scale))
            continue
        inner = terms(source, own * scale) if isinstance(source, tvm.sym.IterSumExpr) and static(source.base) == 0 else None
        if inner is None or low != 1 or extent != static(split.source.extent):
            return None
        found += inner
    return found


def _specialized(func: tirx.PrimFunc, known: Mapping[Any, int]) -> tirx.PrimFunc:
    numbers = {var: tirx.IntImm(str(var.ty.dtype), n) for var, n in known.items()}
    analyzer = tvm.sym.Analyzer()

    def number(expr: Any) -> Any:
        replaced = tvm_ffi.structural_mutate(expr, [(tvm.ir.Var, lambda v, _: numbers.get(v, v))])
        return analyzer.simplify(replaced)

    buffers: dict[Any, Any] = {}

    def on_var(var: Any, _: Any) -> Any:
        if var in numbers:
            return numbers[var]
        if not isinstance(var.ty, tirx.BufferType):
            return var
        if var not in buffers:
            layout = None if var.ty.layout is None else "default"
            shape = [number(s) for s in var.ty.shape]
            dtype = str(var.ty.dtype.dtype)
            buffers[var] = tirx.decl_buffer(shape, dtype, var.name, scope=var.ty.storage_scope, layout=layout)
        return buffers[var]

    body = tvm_ffi.structural_mutate(func.body, [(tvm.ir.Var, on_var)])
    params = [on_var(p, None) if isinstance(p.ty, tirx.BufferType) else p for p in func.params]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def _own_loops(loop: Any, mutator: Any) -> Any:
    """A nest around one block whose variables run through their whole domains in another order: loops over these domains."""
    nest: list[Any] = []
    stmt = loop
    while isinstance(stmt, tirx.For):
        nest.append(stmt)
        stmt = stmt.body
    if isinstance(stmt, s_tir.SBlockRealize) and stmt.block.iter_vars and not _is_plain(stmt, nest) and _covers(stmt, nest):
        iters = stmt.block.iter_vars
        loops = [tirx.Var(v.var.name.removeprefix("v"), str(v.var.ty.dtype)) for v in iters]
        made: Any = s_tir.SBlockRealize(loops, True, stmt.block)
        for var, iter_var in reversed(list(zip(loops, iters, strict=True))):
            made = tirx.For(var, iter_var.dom.min, iter_var.dom.extent, tirx.ForKind.SERIAL, made)
        return made
    return mutator.default_mutate(loop)


def _is_plain(realize: Any, nest: Sequence[Any]) -> bool:
    loops = [loop.loop_var for loop in nest]
    return is_true(realize.predicate) and all(any(v.same_as(x) for x in loops) or static(v) == 0 for v in realize.iter_values)


def _covers(realize: Any, nest: Sequence[Any]) -> bool:
    """Whether the nest visits every point of the block's domain once."""
    extents = {loop.loop_var: loop.extent for loop in nest}
    plain = all(static(loop.min) == 0 and loop.thread_binding is None and static(loop.extent) is not None for loop in nest)
    domains = [v.dom for v in realize.block.iter_vars]
    if not plain or any(static(d.min) != 0 or static(d.extent) is None for d in domains):
        return False
    if any(v not in extents for value in (*realize.iter_values, realize.predicate) for v in variables(value)):
        return False
    found = split_parts(realize.iter_values, extents, realize.predicate, bijective=True)
    if len(found) != len(domains):
        return False
    for part, domain in zip(found, domains, strict=True):
        total = 1
        for term in part.args:
            total *= static(term.extent) or 0
        if static(part.base) != 0 or total != static(domain.extent):
            return False
    return True
