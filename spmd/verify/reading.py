"""Reading a Relax function as relations: what each of its values is, binding by binding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from . import exchanges
from .expressions import is_float
from .field import of_float, of_floats
from .heads import Heads, attention
from .indices import NoRelation
from .opaque import FUSED
from .operations import Evaluation, Operators
from .operators import SAME
from .relations import Relations, Shape, Thing, Value
from .stages import pattern
from .terms import Term

_DEEPEST = 24
_PACKED = ("relax.call_dps_packed", "relax.call_pure_packed")


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


class Reading:
    """Reads a function of the module, and then that of the workers, which may only call what the module does where nobody looks into it."""

    def __init__(
        self, relations: Relations, operators: Operators, heads: dict[tuple[int, int], Heads], divisible: Mapping[str, int]
    ) -> None:
        self.divisible = divisible
        self.relations, self.indices, self.operators, self.heads = relations, relations.indices, operators, heads
        self.calls: list[Called] = []
        self._next, self._things = 0, 0

    def is_all_called(self) -> bool:
        """Whether the workers have made all calls of the module that may do more than give something."""
        return self._next == sum(any(isinstance(arg, Thing) for arg in call.args) for call in self.calls)

    def argument(self, ty: Any, name: str, function: Function) -> Any:
        """One argument of a function of the module, which stands for itself."""
        if isinstance(ty, relax.TupleType):
            return tuple(self.argument(inner, f"{name}[{i}]", function) for i, inner in enumerate(ty.fields))
        if isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr):
            return self.relations.argument(tuple(self._named(size, function) for size in ty.shape.values), str(ty.dtype))
        if isinstance(ty, relax.ShapeType) and ty.values is not None:
            return Shape(tuple(self._named(size, function) for size in ty.values))
        if isinstance(ty, relax.TensorType | relax.ShapeType | tvm.ir.PrimType):
            raise NoRelation(f"parameter {name!r} of {ty}")
        self._things += 1
        return Thing(f"{name} {self._things}")

    def _named(self, size: Any, function: Function) -> int:
        if isinstance(size, tvm.ir.Var):
            other = sum(known.name == size.name for known in function.sizes)
            one = self.indices.times(self.indices.symbol(size.name + "'" * other), self.divisible.get(size.name, 1))
            function.sizes.setdefault(size, one)
        return self.size(size, function)

    def size(self, size: Any, function: Function) -> int:
        """A size as an expression."""
        return self._evaluation(function).size(pattern(size), function.sizes)

    def _evaluation(self, function: Function) -> Evaluation:
        return Evaluation(self.relations, function.is_local)

    def bind(self, sizes: Sequence[int], named: Sequence[Any], function: Function) -> None:
        """Give the symbols of a type the sizes that a value has."""
        for size, name in zip(sizes, named, strict=True):
            if isinstance(name, tvm.ir.Var):
                function.sizes.setdefault(name, size)
            if not self.indices.equal(self.size(name, function), size):
                raise NoRelation(f"a size is {self.indices.text(size)}, and not {name}")

    def expression(self, e: Any, function: Function) -> Any:
        """What an expression is."""
        if isinstance(e, relax.SeqExpr):
            for block in e.blocks:
                for binding in block.bindings:
                    if not isinstance(binding, relax.VarBinding):
                        raise NoRelation(f"{binding.var.name!r} is cast to a type")
                    try:
                        function.values[binding.var] = self.expression(binding.value, function)
                    except NoRelation as reason:
                        raise (
                            reason
                            if reason.is_named or function.is_operator
                            else NoRelation(f"{binding.var.name!r}, {_operator(binding.value)}: {reason}", True)
                        ) from reason
            return self.expression(e.body, function)
        if isinstance(e, tvm.ir.Call):
            return self._call(e, function)
        if isinstance(e, relax.TupleGetItem):
            return self.expression(e.tuple_value, function)[e.index]
        if isinstance(e, relax.Tuple):
            return tuple(self.expression(part, function) for part in e.fields)
        if isinstance(e, relax.ShapeExpr):
            return Shape(tuple(self.size(size, function) for size in e.values))
        if isinstance(e, tvm.ir.GenericConst) and isinstance(e.value, tvm.runtime.Tensor):
            return self.constant(e.value)
        if isinstance(e, tvm.ir.Var) and e in function.values:
            return function.values[e]
        if isinstance(e, tvm.ir.StringImm | tvm.tirx.FloatImm):
            return Thing(f"{type(e).__name__} {e.value}")
        if isinstance(e, tvm.tirx.IntImm):
            return Shape((self.indices.number(int(e)),))
        raise NoRelation(f"{type(e).__name__}, of which nothing is known")

    def constant(self, data: Any) -> Value:
        """The value of an array."""
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
            return Value((), "int64", ("ix", self.indices.index(exchanges.axes_of(e.attrs, self.indices.mesh))))
        if isinstance(e.op, tvm.ir.GlobalVar) and isinstance(function.mod[e.op], relax.Function):
            return self._called(function.mod[e.op], [self.expression(arg, function) for arg in e.args], function)
        if name in SAME:
            return self.expression(e.args[0], function)
        if name.startswith(("relax.spmd.", "relax.ccl.")) and function.is_local:
            axes, step = exchanges.of_call(e, name, self.indices.mesh)
            given = self.expression(e.args[0], function)
            return tuple(step(self.relations, v, axes) for v in given) if isinstance(given, tuple) else step(self.relations, given, axes)
        if name == "relax.call_tir":
            return self._kernel(e, function)
        if name in _PACKED:
            called, args = str(e.args[0].global_symbol), list(e.args[1].fields) if name == _PACKED[0] else list(e.args[1:])
            return self._packed(called, [self.expression(arg, function) for arg in args], e.ty_args, function)
        if not name or "inplace" in name or name.startswith(("relax.call_", "relax.builtin", "relax.vm", "relax.memory")):
            raise NoRelation("nobody looks into it")
        loops, given = self.operators.loops(e)
        values = [self.expression(v, function) for v in given]
        inner = loops["main"]
        own = Function(loops, function.is_local, dict(zip(inner.params, values, strict=True)), function.sizes, is_operator=True)
        made = inner.body.blocks[0].bindings[0].value if inner.body.blocks else inner.body.body
        if isinstance(made, tvm.ir.Call) and made.op.same_as(e.op):
            told = [str(arg) for arg in e.args if not isinstance(arg, relax.Var | relax.Tuple)]
            return self._packed(f"{name} {e.attrs} {told}", values, [e.ty], function)
        return self.expression(inner.body, own)

    def _called(self, func: Any, args: list[Any], function: Function) -> Any:
        """What a function of the same module gives."""
        own = Function(function.mod, function.is_local, dict(zip(func.params, args, strict=True)), depth=function.depth + 1)
        if own.depth > _DEEPEST:
            raise NoRelation("functions that call each other")
        for param, value in own.values.items():
            if isinstance(value, Value | Shape):
                named = param.ty.shape.values if isinstance(value, Value) else param.ty.values
                self.bind(value.shape if isinstance(value, Value) else value.sizes, named, own)
        return self.expression(func.body, own)

    def _kernel(self, e: Any, function: Function) -> Any:
        stages, evaluation = self.operators.kernel(function.mod[e.args[0]]), self._evaluation(function)
        given = (
            [self.expression(arg, function) for arg in e.args[1].fields]
            if isinstance(e.args[1], relax.Tuple)
            else [self.expression(e.args[1], function)]
        )
        types = list(e.ty_args[0].fields) if isinstance(e.ty_args[0], relax.TupleType) else [e.ty_args[0]]
        shapes = [tuple(self.size(size, function) for size in ty.shape.values) for ty in types]
        scalars = [self.size(size, function) for size in e.args[2].values] if len(e.args) > 2 else []
        env: dict[Any, Any] = {}
        outs = range(len(given), len(given) + len(types))
        for i, ((param, sizes), held) in enumerate(zip(stages.params, (*given, *shapes, *scalars), strict=True)):
            if i not in outs:
                env[param] = held
            shape: tuple[int, ...] = held.shape if isinstance(held, Value) else held if isinstance(held, tuple) else ()
            for size, n in zip(sizes or (), shape, strict=True):
                if size[0] == "var":
                    env.setdefault(size[1], n)
                if not self.indices.equal(evaluation.size(size, env), n):
                    raise NoRelation("a kernel is given other sizes than its own")
        for stage in stages.stages:
            if stage.buffer in env:
                raise NoRelation("a kernel that writes to what it is given")
            env[stage.buffer] = evaluation.stage(stage, env)
        found = tuple(env[stages.params[i][0]] for i in outs)
        return found if isinstance(e.ty_args[0], relax.TupleType) else found[0]

    def _packed(self, name: str, args: list[Any], types: Sequence[Any], function: Function) -> Any:
        """A call that nobody looks into: the module's gives something new, and a worker's must be one of them."""
        if not function.is_local:
            out = self.argument(types[0], name, Function(function.mod, False, {}, dict(function.sizes)))
            self.calls.append(Called(name, args, out))
            return out
        is_effect = any(isinstance(arg, Thing) for arg in args)
        same = [call for call in self.calls if any(isinstance(arg, Thing) for arg in call.args) == is_effect]
        if is_effect:
            same, self._next = same[self._next : self._next + 1], self._next + 1
        for call in same:
            if call.name == name and len(call.args) == len(args):
                if name == FUSED:
                    shape = tuple(self.size(size, function) for size in types[0].shape.values)
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


def _operator(e: Any) -> str:
    if not isinstance(e, tvm.ir.Call):
        return type(e).__name__
    return str(getattr(e.args[0], "name_hint", None) or getattr(e.op, "name", e.op)).removeprefix("relax.")
