"""The values of a graph as they are found: their names and shapes, the weights that functions share, the states that go together."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.errors import ShardingError
from spmd.ir.expressions import static
from spmd.ir.trees import Tree
from spmd.placement.sharding import Sharding
from spmd.placement.spec import Constraint
from spmd.rules.model import Shape, Size

from .divisible import Divisible, divisor
from .graph import Value


class Values:
    """All values of a module."""

    def __init__(self, divisible: Divisible) -> None:
        self._divisible = divisible
        self.unknown: set[Value] = set()
        """Temporaries whose shape is known only when the program runs."""
        self._all: list[Value] = []
        self._constants: dict[tuple[str, int], Value] = {}
        self._weights: dict[tuple[Any, ...], Value] = {}
        self._states: dict[Size, Value] = {}
        self._types: dict[tuple[object, ...], int] = {}
        self._names: dict[str, dict[str, int]] = {}
        self._tied: dict[Value, Value] = {}

    def new(self, name: str, function: str, ty: Any, role: str) -> Value:
        """A value of its own, whose name is made the only one of its function."""
        tensor = isinstance(ty, relax.TensorType)
        kind = "tensor" if tensor else "object" if isinstance(ty, relax.AnyType) else "other"
        name = _apart(name, self._names.setdefault(function, {}))
        unknown = tensor and ty.ndim != 0 and not isinstance(ty.shape, relax.ShapeExpr)
        dims: tuple[Any, ...] = ()
        shape: Shape = ()
        if unknown and role == "temporary" and ty.ndim > 0:
            dims = tuple(tvm.tirx.Var(f"{name}_{i}", "int64") for i in range(ty.ndim))
            shape = (None,) * len(dims)
        elif unknown:
            raise ShardingError(f"{function}: value {name!r}", f"its shape is not known ({ty})", "Give it a shape with R.match_cast.")
        elif tensor and ty.ndim != 0:
            sizes = ty.shape.values[:]
            shape = tuple([static(size) for size in sizes])
            dims = shape if None not in shape else tuple([d if n is None else n for d, n in zip(sizes, shape, strict=True)])
        dtype = str(ty.dtype) if tensor else ""
        type_class = self._types.setdefault((dtype, *map(_dim_key, dims)), len(self._types))
        value = Value(name, function, shape, dims, dtype, kind, role, type_class)
        if None in shape:
            value.blocks = tuple([divisor(d, self._divisible) for d in dims])
        self._all.append(value)
        if unknown:
            self.unknown.add(value)
        return value

    def constant(self, expr: Any, function: str) -> Value:
        """The value of a constant that stays in the program; the same one wherever a function reads it."""
        value = self._constants.get((function, hash(expr)))
        if value is None:
            value = self._constants[function, hash(expr)] = self.new("constant", function, expr.ty, "constant")
            value.data, value.wanted = expr, Constraint.exactly(Sharding.replicated(len(value.shape)))
            value.reason = "constants of less than `lift` bytes stay in the program, and are whole"
        return value

    def carried(self, param: Any, function: str) -> Tree[Value]:
        """The values of a parameter of a loop."""
        return self._param(param.ty, param.name, function, None, "carried")

    def param(self, param: Any, function: str, weight: bool, before: int) -> Tree[Value]:
        """The values of a parameter; `before` weights of its function have the same name."""
        return self._param(param.ty, param.name, function, (param.name, before) if weight else None)

    def _param(self, ty: Any, name: str, function: str, key: tuple[Any, ...] | None, role: str = "input") -> Tree[Value]:
        """Weights have a key; those with the same key, shape and dtype are one."""
        if isinstance(ty, relax.TupleType):
            fields = enumerate(ty.fields[:])
            return tuple([self._param(f, f"{name}[{i}]", function, None if key is None else (*key, i), role) for i, f in fields])
        if key is None:
            return self.new(name, function, ty, role)
        value = self.new(name, function, ty, "weight")
        shared = self._weights.setdefault((*key, value.shape, value.dtype), value)
        if shared is not value:
            self._all.pop()
        return shared

    def results(self, name: str, ty: Any, function: str) -> Tree[Value]:
        """The values of what is bound to a variable of this name and type."""
        if isinstance(ty, relax.TupleType):
            return tuple([self.results(f"{name}[{i}]", field, function) for i, field in enumerate(ty.fields[:])])
        return self.new(name, function, ty, "temporary")

    def numbered(self, tree: Tree[Value], ty: Any, function: str, name: str) -> Tree[Value]:
        """`tree` with a value for each shape and number that is written out, which a function may return."""
        if isinstance(ty, relax.TupleType) and isinstance(tree, tuple):
            return tuple(self.numbered(t, f, function, f"{name}[{i}]") for i, (t, f) in enumerate(zip(tree, ty.fields, strict=True)))
        return self.new(name, function, ty, "temporary") if tree == () and isinstance(ty, relax.ShapeType | tvm.ir.PrimType) else tree

    def tie_state(self, state: Value, size: int) -> None:
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
        named: dict[str, int] = {}
        for weight in (v for v in self._all if v.role == "weight"):
            weight.name = _apart(weight.name, named)  # another shape in another function, or another place in a packed tuple
        return [v for v in self._all if self.root(v) is v]


def _apart(name: str, taken: dict[str, int]) -> str:
    """`name`, with a number where it is taken; `taken` counts each name."""
    taken[name] = taken.get(name, 0) + 1
    if taken[name] == 1:
        return name
    while (numbered := f"{name}#{taken[name]}") in taken:
        taken[name] += 1
    taken[numbered] = 1
    return numbered


def _dim_key(dim: Any) -> object:
    """A size as a part of a key."""
    return dim if isinstance(dim, int) else hash(dim) if isinstance(dim, tvm.ir.Var) else tvm_ffi.StructuralKey(dim)
