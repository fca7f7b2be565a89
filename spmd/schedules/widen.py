"""Half-precision arithmetic done in float32: faster on CPUs, which would convert around every step, and more exact."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad

from spmd.ir.expressions import intrinsic

from .cpu.analysis import is_reduction_block
from .cpu.product import right_read
from .scheduling import is_scheduled
from .stages import stage

WIDE = "float32"
_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min)
_LEAVES = (tirx.Var, tirx.IntImm, tirx.FloatImm)
_COMPARISONS = (tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE)
_FUNCTIONS = frozenset(["exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos", "fabs", "pow"])


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.WidenHalf")
class WidenHalf:
    """Each stored float16 or bfloat16 value is computed in float32 and rounded once; sums accumulate in float32.

    Explicit casts still round. Functions marked `tirx.is_scheduled` stay as they are.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func`, widened unless somebody has decided its loops."""
        return func if is_scheduled(func) else widen(func)


def widen(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with its half-precision arithmetic in float32; its parameters keep their types."""
    if not _has_half_stores(func.body):
        return func
    wider, operands = _wide_buffers(func)
    body = tvm_ffi.structural_mutate(
        func.body,
        [
            (tirx.BufferStore, lambda store, _: _store(store, wider)),
            (s_tir.SBlock, lambda block, mutator: _block(block, mutator, wider, operands)),
        ],
    )
    returned = {old: new for old, new in wider.items() if any(old.same_as(p) for p in func.params)}
    return func.with_body(_with_copies(body, operands, returned))


def is_half(dtype: object) -> bool:
    """Whether arithmetic in `dtype` is to be widened."""
    return str(dtype) in ("float16", "bfloat16")


def _has_half_stores(body: tirx.Stmt) -> bool:
    found = False

    def see(store: tirx.BufferStore) -> None:
        nonlocal found
        found |= is_half(store.buffer.dtype) or _reads_half(store.value)

    tvm_ffi.structural_walk(body, (tirx.BufferStore, see))
    return found


def _reads_half(value: tirx.Expr) -> bool:
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(value, (TensorLoad, found.append))
    return any(is_half(load.ty.dtype) for load in found)


Buffers = dict[tirx.Var, tirx.Var]


def _wide_buffers(func: tirx.PrimFunc) -> tuple[Buffers, Buffers]:
    """Float32 stand-ins: for what sums are accumulated in everywhere, and for a product's operands in the product.

    The operands get a stage of their own, so that a schedule can convert each element once and not once a row.
    """
    wider: Buffers = {}
    operands: Buffers = {}

    def stand_in(old: tirx.Var, suffix: str) -> tirx.Var:
        return tirx.decl_buffer(old.shape, WIDE, f"{old.name}_{suffix}", scope=old.scope())

    def see(block: s_tir.SBlock) -> None:
        store = block.body
        if not is_reduction_block(block) or not isinstance(store, tirx.BufferStore) or len(block.writes) != 1:
            return
        if is_half(store.buffer.dtype) and isinstance(store.value, tirx.Add):
            wider.setdefault(store.buffer, stand_in(store.buffer, "sum"))
        if right_read(block) is None:
            return
        for source in (read.source for read in block.reads if is_half(read.source.dtype)):
            if any(source.same_as(param) for param in func.params):
                operands.setdefault(source, stand_in(source, WIDE))
            elif not source.same_as(store.buffer):
                wider.setdefault(source, stand_in(source, WIDE))

    if isinstance(func.body, s_tir.SBlockRealize):
        tvm_ffi.structural_walk(func.body, (s_tir.SBlock, see))
    return wider, {old: new for old, new in operands.items() if old not in wider}


def _store(store: tirx.BufferStore, wider: Buffers) -> tirx.BufferStore:
    buffer = wider.get(store.buffer, store.buffer)
    value = _wide(store.value, wider) if _is_half_expr(store.value) else _keep(store.value, wider)
    if is_half(buffer.dtype):
        value = tirx.Cast(str(buffer.dtype), value) if str(value.ty.dtype) == WIDE else value
    return tirx.BufferStore(buffer, value, [_keep(i, wider) for i in store.indices])


def _is_half_expr(expr: tirx.Expr) -> bool:
    return is_half(getattr(expr.ty, "dtype", ""))


def _wide(expr: tirx.Expr, wider: Buffers) -> tirx.Expr:
    """The float32 value of a half-precision expression."""
    if isinstance(expr, _ARITHMETIC):
        return type(expr)(_wide(expr.a, wider), _wide(expr.b, wider))
    if isinstance(expr, tirx.FloatImm):
        return tirx.FloatImm(WIDE, expr.value)
    if isinstance(expr, tirx.Select):
        return tirx.Select(_keep(expr.condition, wider), _wide(expr.true_value, wider), _wide(expr.false_value, wider))
    if isinstance(expr, tirx.Cast) and "int" in str(expr.value.ty.dtype):
        return tirx.Cast(WIDE, _keep(expr.value, wider))
    called = intrinsic(expr)
    if called == "if_then_else":
        condition, yes, no = expr.args
        return tirx.if_then_else(_keep(condition, wider), _wide(yes, wider), _wide(no, wider))
    if called in _FUNCTIONS:
        return tirx.call_intrin(WIDE, expr.op.name, *[_wide(arg, wider) for arg in expr.args])
    kept = _keep(expr, wider)
    return tirx.Cast(WIDE, kept) if _is_half_expr(kept) else kept


def _keep(expr: tirx.Expr, wider: Buffers) -> tirx.Expr:
    """The same value of the same type (wider for a load from a widened buffer), its half-precision parts in float32."""
    if isinstance(expr, TensorLoad):
        return tirx.BufferLoad(wider.get(expr.source, expr.source), [_keep(i, wider) for i in expr.indices])
    if isinstance(expr, _COMPARISONS) and _is_half_expr(expr.a):
        return type(expr)(_wide(expr.a, wider), _wide(expr.b, wider))
    if isinstance(expr, tirx.Cast):
        if not _is_half_expr(expr) and _is_half_expr(expr.value):
            value = _wide(expr.value, wider)
            return value if str(expr.ty.dtype) == WIDE else tirx.Cast(str(expr.ty.dtype), value)
        return tirx.Cast(str(expr.ty.dtype), _keep(expr.value, wider))
    if _is_half_expr(expr) and isinstance(expr, (*_ARITHMETIC, tirx.Select)):
        return tirx.Cast(str(expr.ty.dtype), _wide(expr, wider))
    if isinstance(expr, _ARITHMETIC):
        return type(expr)(_keep(expr.a, wider), _keep(expr.b, wider))
    return expr if isinstance(expr, _LEAVES) else _descend(expr, wider)


def _descend(expr: tirx.Expr, wider: Buffers) -> tirx.Expr:
    """Rebuild any other node from its rewritten operands."""

    def visit(node: tirx.Expr, mutator: Any) -> Any:
        return mutator.default_mutate(node) if node.same_as(expr) else _keep(node, wider)

    kinds = (TensorLoad, tirx.Cast, *_ARITHMETIC, *_COMPARISONS, tirx.Select)
    return tvm_ffi.structural_mutate(expr, [(kinds, visit)])


def _block(block: s_tir.SBlock, mutator: Any, wider: Buffers, operands: Buffers) -> s_tir.SBlock:
    """A block with the widened buffers in its regions and allocations."""

    def regions(old: list[tvm.ir.TensorRegion]) -> list[tvm.ir.TensorRegion]:
        return [tirx.BufferRegion(wider.get(r.source, r.source), r.region) for r in old]

    allocated = [wider.get(buffer, buffer) for buffer in block.alloc_buffers]
    if operands and right_read(block) is not None:
        wider = wider | operands
        body, init = _store(block.body, wider), block.init if block.init is None else _store(block.init, wider)
    else:
        body, init = mutator.mutate(block.body), None if block.init is None else mutator.mutate(block.init)
    return s_tir.SBlock(
        block.iter_vars,
        regions(block.reads),
        regions(block.writes),
        block.name_hint,
        body,
        init,
        allocated,
        block.match_buffers,
        block.annotations,
    )


def _with_copies(body: tirx.Stmt, operands: Buffers, returned: Buffers) -> tirx.Stmt:
    """Convert each operand at the start of the root block, and each sum to its parameter's type at the end."""
    if not operands and not returned:
        return body
    root = body.block
    before = [_copy(new, old) for old, new in operands.items()]
    after = [_copy(old, new) for old, new in returned.items()]
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        tirx.SeqStmt([*before, root.body, *after]),
        root.init,
        [*root.alloc_buffers, *operands.values(), *returned.values()],
        root.match_buffers,
        root.annotations,
    )
    return s_tir.SBlockRealize(body.iter_values, body.predicate, block)


def _copy(to: tirx.Var, source: tirx.Var) -> tirx.Stmt:
    """Loops over one block: `to[...] = cast(source[...])`."""
    axes = [tirx.Var(f"i{i}", str(getattr(size.ty, "dtype", "int64"))) for i, size in enumerate(to.shape)]
    return stage(to, tirx.Cast(str(to.dtype), tirx.BufferLoad(source, axes)), axes, f"{to.name}_cast")
