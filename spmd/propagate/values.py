"""The values of a graph as they are found: their names and shapes, the weights that functions share, the states that go together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import tvm
from tvm import relax

from ..errors import ShardingError
from ..expression import Size
from ..graph import Tree, Value
from ..sharding import Sharding
from ..spec import Constraint
from .divisible import Divisible, divisor
from .rules import static


class Values:
    """All values of a module."""

    def __init__(self, divisible: Divisible) -> None:
        self._divisible = divisible
        self.unknown: set[Value] = set()
        """Temporaries whose shape is known only when the program runs."""
        self._all: list[Value] = []
        self._weights: dict[tuple[Any, ...], Value] = {}
        self._states: dict[Size, Value] = {}
        self._names: dict[str, dict[str, int]] = {}
        self._tied: dict[Value, Value] = {}

    def new(self, name: str, function: str, ty: Any, role: str) -> Value:
        """A value of its own, whose name is made the only one of its function."""
        tensor = isinstance(ty, relax.TensorType)
        kind = "tensor" if tensor else "object" if isinstance(ty, relax.AnyType) else "other"
        taken = self._names.setdefault(function, {})
        taken[name] = taken.get(name, 0) + 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        dims: tuple[Any, ...] = ()
        unknown = tensor and ty.ndim != 0 and not isinstance(ty.shape, relax.ShapeExpr)
        if unknown and role == "temporary" and ty.ndim > 0:
            dims = tuple(tvm.tirx.Var(f"{name}_{i}", "int64") for i in range(ty.ndim))
        elif tensor and ty.ndim != 0:
            if unknown:
                raise ShardingError(f"{function}: value {name!r}", f"its shape is not known ({ty})", "Give it a shape with R.match_cast.")
            dims = tuple(d if (n := static(d)) is None else n for d in ty.shape.values[:])
        dtype = str(ty.dtype) if tensor else ""
        value = Value(name, function, tuple(d if isinstance(d, int) else None for d in dims), dims, dtype, kind, role)
        if self._divisible:
            value.blocks = tuple(divisor(d, self._divisible) for d in dims)
        self._all.append(value)
        if unknown:
            self.unknown.add(value)
        return value

    def constant(self, expr: Any, function: str) -> Value:
        """The value of a constant."""
        value = self.new("constant", function, expr.ty, "constant")
        value.data, value.wanted, value.reason = expr, Constraint.exactly(Sharding.replicated(len(value.shape))), "constants are whole"
        return value

    def param(self, param: Any, function: str, weight: bool, before: int) -> Tree[Value]:
        """The values of a parameter; `before` weights of its function have the same name."""

        def make(ty: Any, name: str, key: tuple[Any, ...]) -> Tree[Value]:
            if isinstance(ty, relax.TupleType):
                return tuple(make(f, f"{name}[{i}]", (*key, i)) for i, f in enumerate(ty.fields[:]))
            if weight:
                value = self.new(name, function, ty, "weight")
                shared = self._weights.setdefault((*key, value.shape, value.dtype), value)
                if shared is not value:
                    self._all.pop()
                return shared
            return self.new(name, function, ty, "input")

        return make(param.ty, param.name, (param.name, before))

    def results(self, var: Any, function: str) -> Tree[Value]:
        """The values of what is bound to `var`."""

        def make(ty: Any, name: str) -> Any:
            if isinstance(ty, relax.TupleType):
                return tuple(make(f, f"{name}[{i}]") for i, f in enumerate(ty.fields[:]))
            return self.new(name, function, ty, "temporary")

        return make(var.ty, var.name)

    def numbered(self, tree: Tree[Value], ty: Any, function: str, name: str) -> Tree[Value]:
        """`tree` with a value for each shape and number that is written out, which a function may return."""
        if isinstance(ty, relax.TupleType) and isinstance(tree, tuple):
            return tuple(self.numbered(t, f, function, f"{name}[{i}]") for i, (t, f) in enumerate(zip(tree, ty.fields, strict=True)))
        return self.new(name, function, ty, "temporary") if tree == () and isinstance(ty, relax.ShapeType | tvm.ir.PrimType) else tree

    def tie_state(self, state: Value, size: Size) -> None:
        """Opaque states of one pseudo-size are sharded alike: what makes one may feed what takes one."""
        self.tie(state, self._states.setdefault(size, state))

    def tie(self, value: Value, first: Value) -> None:
        """Make two values one."""
        if self.root(first) is not self.root(value):
            self._tied[self.root(value)] = self.root(first)

    def root(self, value: Value) -> Value:
        """The value that stands for all that it is tied to."""
        while value in self._tied:
            value = self._tied[value]
        return value

    def finish(self) -> list[Value]:
        """Every value that is left, weights under names of their own."""
        named: Counter[str] = Counter()
        for weight in (v for v in self._all if v.role == "weight"):
            named[weight.name] += 1
            if named[weight.name] > 1:  # another shape in another function, or another place in a packed tuple
                weight.name = f"{weight.name}#{named[weight.name]}"
        return [v for v in self._all if self.root(v) is v]
