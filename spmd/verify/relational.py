"""Engine one: reads a function of the module and that of the workers as relations, and compares what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.placement.mesh import Mesh

from . import exchanges
from .expressions import is_float
from .field import of_float, of_floats
from .heads import Heads, attention
from .indices import Indices, NoRelation
from .opaque import ATTENTION, FUSED
from .operations import Evaluation, Operators
from .operators import SAME
from .relations import Relations, Value
from .signature import Signature
from .stages import pattern
from .terms import Term, Terms

_DEEPEST = 24
_PACKED = ("relax.call_dps_packed", "relax.call_pure_packed")


@dataclass(frozen=True)
class Thing:
    """What is no tensor and is only passed on: a cache, a text."""

    name: str


@dataclass(frozen=True)
class Shape:
    """A shape, or a number as a shape of one."""

    sizes: tuple[int, ...]


@dataclass
class Called:
    """A call of the module's that nobody looks into."""

    name: str
    args: list[Any]
    result: Any


@dataclass
class Function:
    """A function being read: what its variables are, and its symbolic sizes."""

    mod: tvm.IRModule
    is_local: bool
    values: dict[Any, Any] = field(default_factory=dict[Any, Any])
    sizes: dict[Any, int] = field(default_factory=dict[Any, int])
    depth: int = 0
    is_operator: bool = False


class Relational:
    """Proves functions of two modules by relations."""

    def __init__(self, mod: tvm.IRModule, local: tvm.IRModule, mesh: Mesh) -> None:
        self.mod, self.local, self.mesh = mod, local, mesh
        self.indices = Indices(mesh)
        self.terms = Terms(self.indices)
        self.operators = Operators()
        self.heads: dict[tuple[int, int], Heads] = {}
        """How workers hold so many heads of a cache, in all functions."""

    def unrelated(self, signatures: Mapping[str, Signature]) -> dict[str, str]:
        """The functions that are not proven, each with the first value that has no relation. Of those with attention on a cache it is all
        or none: what a worker's head is, is said once for all of them.
        """
        found: dict[str, str] = {}
        for name, signature in signatures.items():
            try:
                self._show(name, signature)
            except (NoRelation, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as reason:
                found[name] = str(reason)
        cached = [name for name in signatures if _has_attention(self.mod[name]) or _has_attention(self.local[name])]
        if any(name in found for name in cached):
            found = {**dict.fromkeys(cached, "another function with its cache has no relation"), **found}
        return found

    def _show(self, name: str, signature: Signature) -> None:
        """Prove a function, or raise `NoRelation` with the first value that has none."""
        funcs = self.mod[name], self.local[name]
        if signature.sizes or len(funcs[0].params) != len(signature.params):
            raise NoRelation("it is told sizes")
        self.relations = Relations(self.indices, self.terms)
        self.calls: list[Called] = []
        self.next, self.things = 0, 0
        one, many = Function(self.mod, False), Function(self.local, True)
        for param in funcs[0].params:
            one.values[param] = self._argument(param.ty, param.name, one)
        expected = self._expression(funcs[0].body, one)
        held = [*(one.values[p] for p in funcs[0].params), *(self._constant(data) for _, data in signature.constants)]
        places = [*signature.params, *(place for place, _ in signature.constants)]
        if len(funcs[1].params) != len(held):
            raise NoRelation("it takes another number of arguments")
        for param, value, place in zip(funcs[1].params, held, places, strict=True):
            many.values[param] = self._placed(value, place, param.ty, many)
        found = self._expression(funcs[1].body, many)
        if self.next != sum(any(isinstance(arg, Thing) for arg in call.args) for call in self.calls):
            raise NoRelation("it calls other functions that nobody looks into")
        self._compare(expected, found, signature.outputs, "the result")

    def _argument(self, ty: Any, name: str, function: Function) -> Any:
        if isinstance(ty, relax.TupleType):
            return tuple(self._argument(inner, f"{name}[{i}]", function) for i, inner in enumerate(ty.fields))
        if isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr):
            return self.relations.argument(tuple(self._named(size, function) for size in ty.shape.values), str(ty.dtype))
        if isinstance(ty, relax.ShapeType) and ty.values is not None:
            return Shape(tuple(self._named(size, function) for size in ty.values))
        if isinstance(ty, relax.TensorType | relax.ShapeType | tvm.ir.PrimType):
            raise NoRelation(f"parameter {name!r} of {ty}")
        self.things += 1
        return Thing(f"{name} {self.things}")

    def _named(self, size: Any, function: Function) -> int:
        if isinstance(size, tvm.ir.Var):
            other = sum(known.name == size.name for known in function.sizes)
            function.sizes.setdefault(size, self.indices.symbol(size.name + "'" * other))
        return self._size(size, function)

    def _size(self, size: Any, function: Function) -> int:
        return self._evaluation(function).size(pattern(size), function.sizes)

    def _evaluation(self, function: Function) -> Evaluation:
        return Evaluation(self.relations, function.is_local)

    def _placed(self, value: Any, place: Any, ty: Any, function: Function) -> Any:
        """What a worker holds of an argument."""
        if isinstance(value, tuple):
            return tuple(self._placed(v, p, t, function) for v, p, t in zip(value, place, ty.fields, strict=True))
        if isinstance(value, Shape):
            self._bind(value.sizes, ty.values, function)
            return value
        if not isinstance(value, Value):
            return value
        shape, at = self._places(value, place)
        if place is not None and place.partial:
            raise NoRelation("an argument that is a partial value")
        self._bind(shape, ty.shape.values, function)
        if str(ty.dtype) != value.dtype:
            raise NoRelation("an argument of another type")
        return self.relations.moved(value, shape, at)

    def _places(self, value: Value, place: Any) -> tuple[tuple[int, ...], dict[int, Term]]:
        """The sizes of what a worker holds of a value, and where in it each of its elements is."""
        if place is None:
            return value.shape, {}
        if len(place.dims) != len(value.shape):
            raise NoRelation("it is placed by another number of dimensions")
        splits = [self._held(split, n) for split, n in zip(place.dims, value.shape, strict=True)]
        shape = tuple(sum_of(self.indices, [length for length, _ in pieces]) for pieces in splits)
        at: dict[int, Term] = {}
        for d, (split, pieces, v) in enumerate(zip(place.dims, splits, self.relations.variables(shape), strict=True)):
            if split is not None:
                at[d] = ("ix", self._piece(pieces, v, self.indices.index(tuple(split.axes))))
        return shape, at

    def _held(self, split: Any, size: int) -> list[tuple[int, int]]:
        """For each piece of a dimension how much a worker holds of it, and where the piece begins."""
        if split is None:
            return [(size, self.indices.number(0))]
        if any(getattr(split, kind, None) for kind in ("symbolic", "repeated", "uneven", "length")):
            raise NoRelation("a symbolic size that is split")
        workers, found, begin = self.mesh.axis_size(*split.axes), list[tuple[int, int]](), 0
        for segment in split.segments:
            if int(segment.size) % (int(segment.unit) * workers):
                raise NoRelation("padding")
            found.append((self.indices.number(int(segment.size) // workers), self.indices.number(begin)))
            begin += int(segment.size)
        if self.indices.constant(size) != begin:
            raise NoRelation("segments that are no dimension")
        return found

    def _piece(self, pieces: Sequence[tuple[int, int]], at: int, worker: int) -> int:
        """Where an element of a dimension in pieces is."""
        (length, begin), *rest = pieces
        step = self.indices.binary("Add", begin, self.indices.binary("Mul", worker, length))
        own = self.indices.binary("Add", step, at)
        if not rest:
            return own
        other = self._piece(rest, self.indices.binary("Sub", at, length), worker)
        return self.indices.select(self.indices.binary("LT", at, length), own, other)

    def _bind(self, sizes: Sequence[int], named: Sequence[Any], function: Function) -> None:
        """Give the symbols of a type the sizes that a value has."""
        for size, name in zip(sizes, named, strict=True):
            if isinstance(name, tvm.ir.Var):
                function.sizes.setdefault(name, size)
            if not self.indices.equal(self._size(name, function), size):
                raise NoRelation(f"a size is {self.indices.text(size)}, and not {name}")

    def _compare(self, expected: Any, found: Any, place: Any, where: str) -> None:
        if isinstance(expected, tuple) and isinstance(found, tuple) and len(expected) == len(found):
            for i, (a, b) in enumerate(zip(expected, found, strict=True)):
                self._compare(a, b, place[i] if isinstance(place, tuple) else None, f"{where}[{i}]")
        elif isinstance(expected, Value) and isinstance(found, Value):
            shape, at = self._places(expected, place)
            there = self.relations.moved(expected, shape, at)
            partial = {(axis, kind) for axis, kind in (place.partial if place is not None else ())}
            if {(axis, found.kind) for axis in found.pending} != partial:
                raise NoRelation(f"{where} is still to be reduced over {', '.join(sorted(found.pending)) or 'nothing'}")
            if found.shape != shape or found.dtype != expected.dtype or not self.relations.same(found.body, there.body):
                raise NoRelation(f"{where} is another value")
        elif expected != found or isinstance(expected, Value | tuple):
            raise NoRelation(f"{where} is something else")

    def _expression(self, e: Any, function: Function) -> Any:
        if isinstance(e, relax.SeqExpr):
            for block in e.blocks:
                for binding in block.bindings:
                    if not isinstance(binding, relax.VarBinding):
                        raise NoRelation(f"{binding.var.name!r} is cast to a type")
                    try:
                        function.values[binding.var] = self._expression(binding.value, function)
                    except NoRelation as reason:
                        raise reason if reason.is_named or function.is_operator else NoRelation(f"{binding.var.name!r}, {_operator(binding.value)}: {reason}", True) from reason
            return self._expression(e.body, function)
        if isinstance(e, tvm.ir.Call):
            return self._call(e, function)
        if isinstance(e, relax.TupleGetItem):
            return self._expression(e.tuple_value, function)[e.index]
        if isinstance(e, relax.Tuple):
            return tuple(self._expression(part, function) for part in e.fields)
        if isinstance(e, relax.ShapeExpr):
            return Shape(tuple(self._size(size, function) for size in e.values))
        if isinstance(e, tvm.ir.GenericConst) and isinstance(e.value, tvm.runtime.Tensor):
            return self._constant(e.value)
        if isinstance(e, tvm.ir.Var) and e in function.values:
            return function.values[e]
        if isinstance(e, tvm.ir.StringImm | tvm.tirx.FloatImm):
            return Thing(f"{type(e).__name__} {e.value}")
        if isinstance(e, tvm.tirx.IntImm):
            return Shape((self.indices.number(int(e)),))
        raise NoRelation(f"{type(e).__name__}, of which nothing is known")

    def _constant(self, data: Any) -> Value:
        dtype, array = str(data.dtype), data.numpy()
        shape = tuple(self.indices.number(n) for n in array.shape)
        if array.size and (array == array.reshape(-1)[0]).all():
            return Value(shape, dtype, self._number(array.reshape(-1)[0], dtype))
        numbers = of_floats(array, dtype) if is_float(dtype) else array
        return self.relations.given(("constant", array.shape, dtype, numbers.tobytes()), shape, dtype)

    def _number(self, value: Any, dtype: str) -> Term:
        if is_float(dtype):
            return ("const", of_float(float(value), dtype))
        return ("ix", self.indices.truth(bool(value)) if dtype == "bool" else self.indices.number(int(value)))

    def _call(self, e: Any, function: Function) -> Any:
        name = e.op.name if isinstance(e.op, tvm.ir.Op) else ""
        if name == "relax.spmd.axis_index" and function.is_local:
            return Value((), "int64", ("ix", self.indices.index(exchanges.axes_of(e.attrs, self.mesh))))
        if isinstance(e.op, tvm.ir.GlobalVar) and isinstance(function.mod[e.op], relax.Function):
            return self._called(function.mod[e.op], [self._expression(arg, function) for arg in e.args], function)
        if name in SAME:
            return self._expression(e.args[0], function)
        if name.startswith(("relax.spmd.", "relax.ccl.")) and function.is_local:
            axes, step = exchanges.of_call(e, name, self.mesh)
            given = self._expression(e.args[0], function)
            return tuple(step(self.relations, v, axes) for v in given) if isinstance(given, tuple) else step(self.relations, given, axes)
        if name == "relax.call_tir":
            return self._kernel(e, function)
        if name in _PACKED:
            called, args = str(e.args[0].global_symbol), list(e.args[1].fields) if name == _PACKED[0] else list(e.args[1:])
            return self._packed(called, [self._expression(arg, function) for arg in args], e.ty_args, function)
        if not name or "inplace" in name or name.startswith(("relax.call_", "relax.builtin", "relax.vm", "relax.memory")):
            raise NoRelation("nobody looks into it")
        loops, given = self.operators.loops(e)
        values = [self._expression(v, function) for v in given]
        inner = loops["main"]
        own = Function(loops, function.is_local, dict(zip(inner.params, values, strict=True)), function.sizes, is_operator=True)
        made = inner.body.blocks[0].bindings[0].value if inner.body.blocks else inner.body.body
        if isinstance(made, tvm.ir.Call) and made.op.same_as(e.op):
            told = [str(arg) for arg in e.args if not isinstance(arg, relax.Var | relax.Tuple)]
            return self._packed(f"{name} {e.attrs} {told}", values, [e.ty], function)
        return self._expression(inner.body, own)

    def _called(self, func: Any, args: list[Any], function: Function) -> Any:
        """What a function of the same module gives."""
        own = Function(function.mod, function.is_local, dict(zip(func.params, args, strict=True)), depth=function.depth + 1)
        if own.depth > _DEEPEST:
            raise NoRelation("functions that call each other")
        for param, value in own.values.items():
            if isinstance(value, Value | Shape):
                named = param.ty.shape.values if isinstance(value, Value) else param.ty.values
                self._bind(value.shape if isinstance(value, Value) else value.sizes, named, own)
        return self._expression(func.body, own)

    def _kernel(self, e: Any, function: Function) -> Any:
        stages, evaluation = self.operators.kernel(function.mod[e.args[0]]), self._evaluation(function)
        given = [self._expression(arg, function) for arg in e.args[1].fields] if isinstance(e.args[1], relax.Tuple) else [self._expression(e.args[1], function)]
        types = list(e.ty_args[0].fields) if isinstance(e.ty_args[0], relax.TupleType) else [e.ty_args[0]]
        shapes = [tuple(self._size(size, function) for size in ty.shape.values) for ty in types]
        scalars = [self._size(size, function) for size in e.args[2].values] if len(e.args) > 2 else []
        env: dict[Any, Any] = {}
        outs = stages.params[len(given) : len(given) + len(types)]
        for (param, sizes), held in zip(stages.params, (*given, *shapes, *scalars), strict=True):
            if sizes is None:
                env[param] = held
                continue
            if isinstance(held, Value):
                env[param] = held
            shape = held.shape if isinstance(held, Value) else held
            for size, n in zip(sizes, shape, strict=True):
                if size[0] == "var":
                    env.setdefault(size[1], n)
                if not self.indices.equal(evaluation.size(size, env), n):
                    raise NoRelation("a kernel is given other sizes than its own")
        for stage in stages.stages:
            if stage.buffer in env:
                raise NoRelation("a kernel that writes to what it is given")
            env[stage.buffer] = evaluation.stage(stage, env)
        found = tuple(env[out] for out, _ in outs)
        return found if isinstance(e.ty_args[0], relax.TupleType) else found[0]

    def _packed(self, name: str, args: list[Any], types: Sequence[Any], function: Function) -> Any:
        """A call that nobody looks into: the module's gives something new, and a worker's must be one of them."""
        if not function.is_local:
            out = self._argument(types[0], name, Function(function.mod, False, {}, dict(function.sizes)))
            self.calls.append(Called(name, args, out))
            return out
        is_effect = any(isinstance(arg, Thing) for arg in args)
        same = [call for call in self.calls if any(isinstance(arg, Thing) for arg in call.args) == is_effect]
        if is_effect:
            same, self.next = same[self.next : self.next + 1], self.next + 1
        for call in same:
            if call.name == name and len(call.args) == len(args):
                if name == FUSED:
                    shape = tuple(self._size(size, function) for size in types[0].shape.values)
                    found, heads = attention(self.relations, call, args, shape)
                    if self.heads.setdefault(heads[1:3], heads) != heads:
                        raise NoRelation("its heads are others than elsewhere")
                    return found
                if all(self._is_given(a, b) for a, b in zip(call.args, args, strict=True)):
                    return call.result
        raise NoRelation("the module never gives it this")

    def _is_given(self, a: Any, b: Any) -> bool:
        if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            return all(map(self._is_given, a, b))
        if isinstance(a, Value) and isinstance(b, Value):
            return (a.shape, a.dtype, b.pending) == (b.shape, b.dtype, frozenset()) and self.relations.same(b.body, a.body)
        return not isinstance(a, Value | tuple) and a == b


def _has_attention(func: Any) -> bool:
    """Whether a function has attention on a cache."""
    found: list[Any] = []
    tvm_ffi.structural_walk(func.body, ((relax.ExternFunc,), found.append))
    return any(str(called.global_symbol).startswith(ATTENTION) for called in found)


def sum_of(indices: Indices, parts: Sequence[int]) -> int:
    """A sum of sizes."""
    found = indices.number(0)
    for part in parts:
        found = indices.binary("Add", found, part)
    return found


def _operator(e: Any) -> str:
    if not isinstance(e, tvm.ir.Call):
        return type(e).__name__
    return str(getattr(e.args[0], "name_hint", None) or getattr(e.op, "name", e.op)).removeprefix("relax.")

