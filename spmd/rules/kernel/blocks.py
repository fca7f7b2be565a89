"""What one leaf block does: its stores, and which of them reduce."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from .model import NEUTRAL, REDUCE, Block, Store, Unreadable

_KINDS = {tirx.Add: "sum", tirx.Max: "max", tirx.Min: "min", tirx.Mul: "prod"}
_INSIDE = tirx.BufferStore | tirx.SeqStmt | tirx.Bind | tirx.For | tirx.IfThenElse


def holds_blocks(stmt: Any) -> bool:
    """Whether blocks stand in a statement."""
    found = False

    def see(_: Any) -> None:
        nonlocal found
        found = True

    tvm_ffi.structural_walk(stmt, [((s_tir.SBlockRealize,), see)])
    return found


def bound_values(stmt: Any) -> dict[Any, Any]:
    """What the variables that a statement binds stand for, one put into the other."""
    bound: dict[Any, Any] = {}

    def see(bind: Any) -> None:
        bound[bind.var] = put_in(bind.value, bound)

    tvm_ffi.structural_walk(stmt, [((tirx.Bind,), see)])
    return bound


def read_block(realize: Any, top: int, around: tuple[Any, ...]) -> Block:
    """The block of `realize`. Raises `Unreadable` for statements that cannot be cut."""
    block = realize.block
    careful = False
    odd = ""

    def check(node: Any, visitor: Any) -> None:
        nonlocal careful, odd
        if isinstance(node, tirx.Stmt) and not isinstance(node, _INSIDE):
            odd = odd or type(node).__name__
        if isinstance(node, tirx.FloorDiv | tirx.FloorMod | tirx.Div | tirx.Mod) and not isinstance(node.b, tirx.IntImm | tirx.FloatImm):
            careful = careful or "int" in str(node.b.ty.dtype)  # dividing an integer by zero ends the process
        visitor.default_visit(node)

    tvm_ffi.structural_visit(block.body, [((tvm.ir.Expr, tirx.Stmt), check)])
    if odd:
        raise Unreadable(f"block {block.name_hint!r} holds a {odd}")
    return Block(realize, top, _stores(block), careful, around)


def _stores(block: Any) -> tuple[Store, ...] | None:
    """The stores of a block, values that are bound first put into them; None where they are not all that it does."""
    starts = _flat(block.init) if block.init is not None else []
    found = _flat(block.body)
    if found is None or starts is None:
        return None
    reducing = any(v.iter_type == REDUCE for v in block.iter_vars)
    stores: list[Store] = []
    for number, (buffer, indices, value) in enumerate(found):
        others = [b for i, (b, _, _) in enumerate(found) if i != number]
        if any(_reads(value, b) for b in others):
            return None
        start: Any = next((v for b, _, v in starts if b.same_as(buffer)), None)
        kind, update = _reduction(buffer, indices, value) if reducing and start is not None else (None, None)
        if kind is not None and kind in NEUTRAL and _number(start) != NEUTRAL[kind]:
            kind, update = None, None  # each worker would count what it starts from
        stores.append(Store(buffer, indices, value, kind, update, start))
    return tuple(stores)


def _number(expr: Any) -> float | None:
    return float(expr.value) if isinstance(expr, tirx.IntImm | tirx.FloatImm) else None


def _flat(stmt: Any) -> list[tuple[Any, tuple[Any, ...], Any]] | None:
    bound: dict[Any, Any] = {}
    found: list[tuple[Any, tuple[Any, ...], Any]] = []
    for part in stmt.seq if isinstance(stmt, tirx.SeqStmt) else [stmt]:
        if isinstance(part, tirx.Bind):
            bound[part.var] = put_in(part.value, bound)
        elif isinstance(part, tirx.BufferStore):
            found.append((part.buffer, tuple(put_in(i, bound) for i in part.indices), put_in(part.value, bound)))
        else:
            return None
    return found


def put_in(expr: Any, bound: Mapping[Any, Any]) -> Any:
    """`expr` with the values of bound variables in their place."""
    return tvm_ffi.structural_mutate(expr, [(tvm.ir.Var, lambda v, _: bound.get(v, v))]) if bound else expr


def _reduction(buffer: Any, indices: tuple[Any, ...], value: Any) -> tuple[str | None, Any]:
    """``("sum", x)`` for ``buffer[indices] + x`` where x does not read the buffer."""
    kind = _KINDS.get(type(value))
    if kind is None:
        return None, None
    for mine, update in ((value.a, value.b), (value.b, value.a)):
        if not isinstance(mine, tvm.ir.TensorLoad) or not mine.source.same_as(buffer) or _reads(update, buffer):
            continue
        if all(tvm_ffi.structural_equal(a, b) for a, b in zip(mine.indices, indices, strict=True)):
            return kind, update
    return None, None


def _reads(expr: Any, buffer: Any) -> bool:
    found = False

    def visit(node: Any, visitor: Any) -> None:
        nonlocal found
        found = found or (isinstance(node, tvm.ir.TensorLoad) and node.source.same_as(buffer))
        visitor.default_visit(node)

    tvm_ffi.structural_visit(expr, [((tvm.ir.Expr,), visit)])
    return found
