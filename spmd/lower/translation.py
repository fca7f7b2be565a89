"""What a function's expressions are in the lowered function, but for its tensors: tuples, shapes, numbers, other names for values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tvm
from tvm import relax

from spmd.errors import ShardingError
from spmd.ir.trees import Tree
from spmd.program.graph import Value

from .carried import Carried

_NAMES = (tvm.ir.Var, relax.TupleGetItem)
_LEAVES = (relax.TensorType, relax.AnyType)


class Translation:
    """Expressions of one function in the terms of the lowered one, which goes into `builder`."""

    def __init__(self, builder: relax.BlockBuilder, name: str, source: relax.Function, carried: Carried) -> None:
        self.bb, self.name, self.carried = builder, name, carried
        self.others: dict[Any, Any] = {}
        """Shapes and numbers: the original variable -> the local one."""
        self.bound: dict[Any, Any] = dict(_renamed(source.body))
        """Tuples and other names for values, by variable."""

    def emit(self, expr: Any) -> Any:
        """Bind an expression."""
        return self.bb.emit(expr)

    def result(self, tree: Tree[Value], expr: Any, local: Callable[[Value], Any]) -> Any:
        """What `expr` gives, in the terms of the lowered function, with `local` for each value."""
        if isinstance(tree, tuple):
            expr = self._unbound(expr)
            parts = expr.fields if isinstance(expr, relax.Tuple) else [relax.TupleGetItem(expr, i) for i in range(len(tree))]
            return relax.Tuple([self.result(t, p, local) for t, p in zip(tree, parts, strict=True)])
        return self._other(expr) if tree.kind == "other" else local(tree)

    def parts(self, expr: Any, var: Any) -> Iterator[Any]:
        """The tensors and objects in what was bound to `var`, and now is `expr`."""
        return self._parts(expr, var.ty, expr, var)

    def _parts(self, part: Any, ty: Any, whole: Any, var: Any) -> Iterator[Any]:
        if isinstance(ty, _LEAVES):
            yield part
        elif isinstance(ty, relax.TupleType):
            for i, field in enumerate(ty.fields[:]):
                yield from self._parts(self.bb.emit(relax.TupleGetItem(part, i)), field, whole, var)
        else:
            self.others[var] = whole

    def substitute(self, expr: Any, taken: Iterator[Any], kernels: Mapping[str, Any] | None = None) -> Any:
        """An argument of the original call with the local tensors, in order, in the place of the global ones.

        `kernels` are GlobalVars of the lowered module by the name of the one that they replace.
        """
        if isinstance(expr, tvm.ir.Var):
            bound = self.bound.get(expr)
            if isinstance(bound, relax.Tuple):
                expr = bound
            elif isinstance(expr.ty, relax.TensorType):
                return next(taken)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.substitute(f, taken, kernels) for f in expr.fields[:]])
        if isinstance(expr, tvm.ir.GlobalVar):
            return kernels[expr.name_hint] if kernels and expr.name_hint in kernels else self.carried.global_var(expr)
        if isinstance(expr, tvm.ir.GenericConst) and isinstance(expr.ty, relax.TensorType):
            return next(taken)
        return self._filled(expr.ty, expr, taken) if isinstance(expr, _NAMES) else expr

    def _filled(self, ty: Any, expr: Any, taken: Iterator[Any]) -> Any:
        """What `expr` of this type holds, put together again."""
        if isinstance(ty, relax.TupleType):
            return relax.Tuple([self._filled(field, expr, taken) for field in ty.fields])
        return next(taken) if isinstance(ty, _LEAVES) else self._other(expr)

    def _unbound(self, expr: Any) -> Any:
        """What a variable is another name for, up to what the lowered function knows it by."""
        while isinstance(expr, tvm.ir.Var) and expr not in self.others and expr in self.bound:
            expr = self.bound[expr]
        return expr

    def _other(self, expr: Any) -> Any:
        """A shape or a number, in the lowered function."""
        expr = self._unbound(expr)
        if isinstance(expr, relax.TupleGetItem):
            whole = self._unbound(expr.tuple_value)
            if isinstance(whole, relax.Tuple):
                return self._other(whole.fields[expr.index])
            if whole in self.others or isinstance(whole, relax.TupleGetItem):
                return self.emit(relax.TupleGetItem(self._other(whole), expr.index))
            raise ShardingError(
                f"function {self.name!r}", "it takes a shape or a number out of a tuple", "Return it as a tensor, or alone."
            )
        return self.others.get(expr, expr) if isinstance(expr, tvm.ir.Var) else expr


def _renamed(body: relax.SeqExpr) -> Iterator[tuple[Any, Any]]:
    """Every variable that is bound to no operator, and what it is bound to, those in branches too."""
    for block in body.blocks:
        for binding in block.bindings[:]:
            value = binding.value
            if isinstance(value, tvm.ir.Call):
                continue
            if isinstance(value, relax.If):
                yield from _renamed(value.true_branch)
                yield from _renamed(value.false_branch)
            elif not isinstance(value, relax.Function):
                yield binding.var, value
