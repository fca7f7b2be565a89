"""A-normal form: every call bound to a variable of its own, also inside a match_cast, which TVM's Normalize leaves as it is."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from .expressions import intrinsic


def normalized(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` with its Relax functions in A-normal form, those that are as they are; `mod` is not changed."""
    functions = dict(mod.functions_items())
    nested = [gv for gv, f in functions.items() if isinstance(f, relax.Function) and _is_nested(f)]
    if not nested:
        return mod
    functions.update({gv: _Normal(functions[gv]).visit_expr(functions[gv]) for gv in nested})
    return relax.transform.Normalize()(tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos))


def _is_nested(function: relax.Function) -> bool:
    """Whether some call or branch stands elsewhere than in a binding of its own. (Normalize itself would write types into the function.)"""
    made: list[Any] = []
    bound: set[int] = set()
    casts: list[Any] = []

    def see_binding(binding: relax.VarBinding) -> None:
        bound.add(hash(binding.value))

    walked = [((tvm.ir.Call, relax.If), made.append), (relax.VarBinding, see_binding), (relax.MatchCast, casts.append)]
    tvm_ffi.structural_walk(function.body, walked)
    return not all(_is_leaf(c.value) for c in casts) or any(hash(m) not in bound and not _is_size(m) for m in made)


def _is_size(expr: Any) -> bool:
    """Whether it is arithmetic of a symbolic size, which stands anywhere."""
    return bool(intrinsic(expr))


def _is_leaf(expr: Any) -> bool:
    """Whether an expression computes nothing: it may stand inside of another one."""
    if isinstance(expr, relax.Tuple):
        return all(map(_is_leaf, expr.fields))
    if isinstance(expr, relax.TupleGetItem):
        return isinstance(expr.tuple_value, tvm.ir.Var)
    return not isinstance(expr, tvm.ir.Call | relax.If | relax.SeqExpr)


@mutator
class _Normal(PyExprMutator):
    """Binds what stands inside of another expression to a variable, whose name no variable of the function has."""

    def __init__(self, function: relax.Function) -> None:
        super().__init__()
        self.names: set[str] = set()
        tvm_ffi.structural_walk(function, (tvm.ir.Var, lambda var: self.names.add(str(var.name))))

    def visit_match_cast_(self, binding: relax.MatchCast) -> None:
        """Bind the call within a match_cast before it."""
        cast = relax.MatchCast(binding.var, self._bound(binding.value), binding.ty, binding.span)
        super().visit_match_cast_(cast)

    def visit_call_(self, op: relax.Call) -> relax.Expr:
        """The call with arguments that are bound before it."""
        args = [self._bound(arg) for arg in op.args]
        return super().visit_call_(tvm.ir.Call(op.op, args, op.attrs, op.ty_args, op.span))

    def visit_tuple_(self, op: relax.Tuple) -> relax.Expr:
        """Bind the fields of a tuple before it."""
        return relax.Tuple([self._bound(field) for field in op.fields], op.span)

    def visit_tuple_getitem_(self, op: relax.TupleGetItem) -> relax.Expr:
        """Bind a tuple before a field of it is taken."""
        return relax.TupleGetItem(self._bound(op.tuple_value), op.index, op.span)

    def visit_if_(self, op: relax.If) -> relax.Expr:
        """The If with a condition that is bound before it."""
        return super().visit_if_(relax.If(self._bound(op.cond), op.true_branch, op.false_branch, op.span))

    def visit_seq_expr_(self, op: relax.SeqExpr) -> relax.Expr:
        """Whose result is bound before."""
        blocks, result = list(op.blocks), op.body
        if not _is_leaf(op.body):
            result = relax.Var(self._name(), relax.AnyType())
            blocks.append(relax.BindingBlock([relax.VarBinding(result, op.body)]))
        op = relax.SeqExpr(blocks, result, op.span)  # a new one also where nothing changes: TVM writes types into it
        return super().visit_seq_expr_(op)

    def _bound(self, expr: Any) -> Any:
        visited = self.visit_expr(expr)
        if _is_leaf(visited):
            return visited
        return self.builder_.emit(visited, self._name())

    def _name(self) -> str:
        number = 0
        while f"inner{number}" in self.names:
            number += 1
        self.names.add(f"inner{number}")
        return f"inner{number}"
