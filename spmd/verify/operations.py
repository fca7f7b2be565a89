"""Kernels and operators as definitions, each read once, and what they make of terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from .expressions import is_float
from .field import PRIME
from .indices import NoRelation
from .relations import Reduced, Relations, Value
from .stages import Pattern, Stage, Stages, of_kernel
from .terms import ZERO, Term

Pending = tuple[str, frozenset[str]]
"""The kind of a reduction that is still to be done, and over which axes."""
_NONE: frozenset[str] = frozenset()
_DONE: Pending = ("sum", _NONE)
_ORDERED = {"Max": "max", "Min": "min"}
_WIDE = ("int32", "int64", "bool")
_COMPARED = ("LT", "LE", "GT", "GE", "EQ", "NE")


class Operators:
    """What TVM makes of operators."""

    def __init__(self) -> None:
        self._kernels, self._loops = dict[Any, Any](), dict[Any, Any]()

    def kernel(self, func: Any) -> Stages:
        """The definitions of a PrimFunc."""
        if func not in self._kernels:
            try:
                self._kernels[func] = of_kernel(func)
            except NoRelation as reason:
                self._kernels[func] = reason
        if isinstance(self._kernels[func], NoRelation):
            raise self._kernels[func]
        return self._kernels[func]

    def loops(self, call: Any) -> tuple[tvm.IRModule, list[Any]]:
        """A module whose only function is an operator on its parameters, with kernels for it, and what these parameters are."""
        given: list[Any] = []
        params: list[Any] = []

        def param(e: Any) -> Any:
            if isinstance(e, relax.Tuple):
                return relax.Tuple([param(field) for field in e.fields])
            if isinstance(e, relax.Var) and isinstance(e.ty, relax.TensorType | relax.TupleType):
                given.append(e)
                params.append(relax.Var(f"p{len(given)}", e.ty))
                return params[-1]
            return e

        args = [param(arg) for arg in call.args]
        key = (call.op.name, *(tvm_ffi.StructuralKey(x) for x in (call.attrs, *(p.ty for p in params)) if x is not None), _rest(call.args))
        if key not in self._loops:
            made = relax.BlockBuilder().normalize(relax.Call(call.op, args, call.attrs, call.ty_args))
            func = relax.Function(params, relax.SeqExpr([], made), made.ty).with_attr("global_symbol", "main")
            try:
                self._loops[key] = relax.transform.LegalizeOps()(tvm.IRModule({"main": func}))
            except Exception as error:
                raise NoRelation("TVM makes no loops of it") from error
        return self._loops[key], given


def _rest(args: Any) -> Any:
    """What an operator is given besides tensors, and where."""
    found: list[Any] = []
    for arg in args:
        if isinstance(arg, relax.Tuple):
            found.append(_rest(arg.fields))
        else:
            found.append(None if isinstance(arg, relax.Var) else tvm_ffi.StructuralKey(arg))
    return tuple(found)


class Evaluation:
    """What the stages of a kernel give: `finish` makes a value of each definition."""

    def __init__(self, relations: Relations, is_local: bool) -> None:
        self.relations, self.terms, self.indices = relations, relations.terms, relations.indices
        self._finish = relations.related if is_local else relations.define

    def stage(self, stage: Stage, env: dict[Any, Any]) -> Value:
        """The value of a definition where its buffers and variables are known."""
        shape = tuple(self.size(n, env) for _, n in stage.dims)
        reduced = tuple(Reduced(self.indices.variable("k", i, n), n) for i, n in enumerate(self.size(n, env) for _, n in stage.reduced))
        own = {**env, **dict(zip((v for v, _ in stage.dims), self.relations.variables(shape), strict=True))}
        own.update(zip((v for v, _ in stage.reduced), (r.variable for r in reduced), strict=True))
        body, (kind, axes) = self.term(stage.body, own, _NONE_HELD)
        dtype = str(stage.buffer.ty.dtype.dtype)
        return self._finish(Value(shape, dtype, body, axes, kind), stage.kind, reduced)

    def size(self, size: Pattern, env: Mapping[Any, Any]) -> int:
        """A size as an expression."""
        term, _ = self.term(size, env, _NONE_HELD)
        if term[0] != "ix":
            raise NoRelation("a size that depends on data")
        return term[1]

    def term(self, p: Pattern, env: Mapping[Any, Any], held: frozenset[int]) -> tuple[Term, Pending]:
        """An expression as a term, where these conditions hold."""
        kind = p[0]
        if kind == "var":
            if p[1] not in env:
                raise NoRelation(f"the size {p[1]}, of which nothing is known")
            return ("ix", env[p[1]]) if isinstance(env[p[1]], int) else env[p[1]], _DONE
        if kind in ("int", "bool"):
            return ("ix", self.indices.number(p[1]) if kind == "int" else self.indices.truth(p[1])), _DONE
        if kind == "const":
            return p, _DONE
        if kind == "load":
            return self._load(env[p[1]], [self._whole(i, env, held) for i in p[2]], held)
        if kind == "select":
            return self._select(p, env, held)
        if kind == "cast":
            return self._cast(p[1], p[2], *self.term(p[3], env, held))
        if kind == "not":
            return self.terms.negated(self._whole(p[1], env, held)), _DONE
        if kind == "call":
            return ("op", p[1], tuple(self._whole(arg, env, held) for arg in p[2])), _DONE
        return self._binary(p, self.term(p[4], env, held), self.term(p[5], env, held))

    def _whole(self, p: Pattern, env: Mapping[Any, Any], held: frozenset[int]) -> Term:
        term, (kind, axes) = self.term(p, env, held)
        if axes:
            raise NoRelation(f"it is given what is still to be reduced ({kind} over {', '.join(sorted(axes))})")
        return term

    def _load(self, value: Value, at: list[Term], held: frozenset[int]) -> tuple[Term, Pending]:
        for place, extent in zip(at, value.shape, strict=True):
            if place[0] == "ix" and not self.indices.within(place[1], extent, held):
                raise NoRelation(f"it may read at {self.indices.text(place[1])} of a dimension of {self.indices.text(extent)}")
        new = {v: at[d] for d, v in enumerate(self.relations.variables(value.shape))}
        return self.terms.replaced(value.body, new), (value.kind, value.pending)

    def _select(self, p: Pattern, env: Mapping[Any, Any], held: frozenset[int]) -> tuple[Term, Pending]:
        condition = self._whole(p[1], env, held)
        yes, no = held, held
        if condition[0] == "ix":
            always = self.indices.is_true(condition[1])
            if always is not None:
                return self.term(p[2] if always else p[3], env, held)
            yes, no = held | {condition[1]}, held | {self.indices.negated(condition[1])}
        a, b = self.term(p[2], env, yes), self.term(p[3], env, no)
        return self.terms.select(condition, a[0], b[0]), _alike((a, b))

    def _cast(self, dtype: str, before: str, term: Term, pending: Pending) -> tuple[Term, Pending]:
        if is_float(dtype) and is_float(before):
            return term, pending  # floats are real numbers here
        if pending[1]:
            raise NoRelation("it casts what is still to be reduced")
        if is_float(dtype) and term[0] == "ix" and before != "bool" and (n := self.indices.constant(term[1])) is not None:
            return ("const", n % PRIME), _DONE
        if dtype == before or (dtype in _WIDE[:2] and (term[0] == "ix" or (before, dtype) == _WIDE[:2]) and before in _WIDE[:2]):
            return term, _DONE
        return ("op", f"cast:{dtype}", (term,)), _DONE

    def _binary(self, p: Pattern, a: tuple[Term, Pending], b: tuple[Term, Pending]) -> tuple[Term, Pending]:
        _, name, dtype, given, *_ = p
        x, y = a[0], b[0]
        if is_float(given) and is_float(dtype):
            if name in ("Add", "Sub"):
                return self.terms.add([x, y if name == "Add" else self.terms.negative(y)]), _alike((a, b))
            if name == "Mul" and not (a[1][1] and b[1][1]):
                return self.terms.multiply([x, y]), _summed(a[1] if a[1][1] else b[1])
            if name == "Div" and not b[1][1]:
                return self.terms.over(x, y), _summed(a[1])
            if name in _ORDERED and (a[1] == b[1]) and (not a[1][1] or a[1][0] == _ORDERED[name]):
                return ("op", name, (x, y)), a[1]
        if a[1][1] or b[1][1]:
            raise NoRelation(f"{name} of what is still to be reduced over {', '.join(sorted(a[1][1] | b[1][1]))}")
        if given in _WIDE and (dtype in _WIDE or name in _COMPARED):
            return self.terms.binary(name, x, y), _DONE
        return ("op", f"{name}:{given}", (x, y)), _DONE


_NONE_HELD: frozenset[int] = frozenset()


def _summed(pending: Pending) -> Pending:
    if pending[1] and pending[0] != "sum":
        raise NoRelation(f"a product of what is still a {pending[0]} over {', '.join(sorted(pending[1]))}")
    return pending


def _alike(parts: tuple[tuple[Term, Pending], ...]) -> Pending:
    """What is to be reduced of a sum or a choice: the same of all of its parts, but for zeros of a sum."""
    counted = [pending for term, pending in parts if term != ZERO]
    found = next((pending for pending in counted if pending[1]), _DONE)
    if not found[1]:
        return _DONE
    if any(pending != found for pending in counted) or (found[0] != "sum" and len(counted) < len(parts)):
        raise NoRelation(f"a part of it is still to be reduced over {', '.join(sorted(found[1]))}, and another one is not")
    return found
