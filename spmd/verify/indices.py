"""Places in dimensions: expressions of loop variables, sizes and coordinates of workers, each known by a number.

Two that TVM's analyzer simplifies to the same are one number, so that equal layers have equal expressions and nothing is proven twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import permutations
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from spmd.placement.mesh import Mesh

_BINARY: dict[str, Any] = {
    name: getattr(tirx, name)
    for name in ("Add", "Sub", "Mul", "FloorDiv", "FloorMod", "Max", "Min", "LT", "LE", "GT", "GE", "EQ", "NE", "And", "Or")
}
_LARGEST = 2**31


class NoRelation(Exception):
    """A value of which no relation to a global one is known: the text says why, and which one where it is named."""

    def __init__(self, text: str, is_named: bool = False) -> None:
        super().__init__(text)
        self.is_named = is_named


class Indices:
    """All expressions of one proof. A variable has its range from where it is made on."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.axes = [axis for axis, n in mesh.axes.items() if n > 1]
        self._analyzer = tvm.sym.Analyzer()
        self._numbers, self._raw = dict[Any, int](), dict[Any, int]()
        self._expressions: list[Any] = []
        self._variables, self._of = dict[Any, int](), dict[Any, int]()
        self._free: dict[int, frozenset[int]] = {}
        self._replaced: dict[Any, int] = {}
        self.binary, self.equal, self._seen = cache(self._binary), cache(self._equal), cache(self._within)
        self._inside = set[tuple[int, int]]()
        self.places = cache(self._places)

    def made(self, e: Any) -> int:
        """The number of an expression."""
        raw = tvm_ffi.StructuralKey(e)
        if raw not in self._raw:
            simple = self._analyzer.simplify(e)
            key = tvm_ffi.StructuralKey(simple)
            if key not in self._numbers:
                self._numbers[key] = len(self._expressions)
                self._expressions.append(simple)
            self._raw[raw] = self._numbers[key]
        return self._raw[raw]

    def number(self, value: int) -> int:
        """The number of a constant."""
        return self.made(tirx.IntImm("int64", value))

    def truth(self, value: bool) -> int:
        """The number of a condition that holds always, or never."""
        return self.made(tirx.IntImm("bool", int(value)))

    def constant(self, a: int) -> int | None:
        """What a constant is; None for what is none."""
        return int(self._expressions[a]) if isinstance(self._expressions[a], tirx.IntImm) else None

    def variable(self, kind: str, place: Any, extent: int) -> int:
        """A variable that goes from zero to an extent; where that is one, it is zero."""
        if self.constant(extent) == 1:
            return self.number(0)
        return self._variable((kind, place, extent), f"{kind}{place}", tvm.ir.Range(tirx.IntImm("int64", 0), self._expressions[extent]))

    def symbol(self, name: str) -> int:
        """A size that is not known, and is no less than one."""
        return self._variable(name, name, tvm.ir.Range.from_min_extent(tirx.IntImm("int64", 1), tirx.IntImm("int64", _LARGEST)))

    def _variable(self, key: Any, name: str, bounds: Any) -> int:
        if key not in self._variables:
            made = tirx.Var(name, "int64")
            self._analyzer.bind(made, bounds)
            self._variables[key] = self._of[made] = self.made(made)
        return self._variables[key]

    def rank(self, axis: str) -> int:
        """Where a worker stands along an axis."""
        if axis not in self.mesh.axes:
            raise NoRelation(f"axis {axis!r} is a part of one")
        return self.variable("rank", axis, self.number(self.mesh.axes[axis]))

    def index(self, axes: Sequence[str]) -> int:
        """Where a worker stands along axes that are taken as one, major first."""
        found = self.number(0)
        for axis in axes:
            at = self.rank(axis)
            found = self.binary("Add", self.binary("Mul", found, self.number(self.mesh.axes[axis])), at)
        return found

    def coordinates(self, axes: Sequence[str], index: int) -> dict[int, int]:
        """The coordinates, by their variables, of the worker that stands there."""
        found: dict[int, int] = {}
        for axis in reversed(axes):
            size = self.number(self.mesh.axes[axis])
            found[self.rank(axis)] = self.binary("FloorMod", index, size)
            index = self.binary("FloorDiv", index, size)
        return found

    def _places(self, whole: int, held: int, at: int) -> list[tuple[tuple[str, ...], int]]:
        """The ways to split a dimension such that a worker holds so many: the axes, and the place in it of what a worker has at `at`."""
        if whole == held:
            return [((), at)]
        orders = [order for count in range(1, len(self.axes) + 1) for order in permutations(self.axes, count)]
        fitting = [order for order in orders if self.times(held, self.mesh.axis_size(*order)) == whole]
        found = [(order, self.binary("Add", self.binary("Mul", self.index(order), held), at)) for order in fitting]
        self._inside |= {(place, whole) for _, place in found if self.within(at, held)}
        return found

    def times(self, a: int, number: int) -> int:
        """So many times an expression."""
        return self.binary("Mul", a, self.number(number))

    def share(self, size: int, workers: int) -> int:
        """What each of some workers has of a size that they divide."""
        held = self.binary("FloorDiv", size, self.number(workers))
        if self.times(held, workers) != size:
            raise NoRelation(f"{workers} workers do not divide {self.text(size)}, or nobody says so")
        return held

    def _binary(self, name: str, a: int, b: int) -> int:
        if name not in _BINARY:
            raise NoRelation(f"{name} of places")
        if name in ("FloorDiv", "FloorMod") and self.constant(b) is None and self.within(a, b):
            return a if name == "FloorMod" else self.number(0)  # the analyzer does not see this of sizes that are not known
        return self.made(_BINARY[name](self._expressions[a], self._expressions[b]))

    def select(self, condition: int, a: int, b: int) -> int:
        """One or the other."""
        return self.made(tirx.Select(self._expressions[condition], self._expressions[a], self._expressions[b]))

    def negated(self, a: int) -> int:
        """A condition that does not hold."""
        return self.made(tirx.Not(self._expressions[a]))

    def is_true(self, a: int) -> bool | None:
        """Whether a condition holds always, or never; None for what is neither."""
        value = self.constant(a)
        return None if value is None else bool(value)

    def _equal(self, a: int, b: int) -> bool:
        if a == b:
            return True
        x, y = self._expressions[a], self._expressions[b]
        if str(x.ty.dtype) == "bool" or str(y.ty.dtype) == "bool":
            return False
        return bool(self._analyzer.can_prove_equal(x, y))

    def within(self, a: int, extent: int, conditions: frozenset[int] = frozenset()) -> bool:
        """Whether a place is inside of a dimension wherever these conditions hold."""
        return (a, extent) in self._inside or self._seen(a, extent, conditions)

    def _within(self, a: int, extent: int, conditions: frozenset[int]) -> bool:
        x = self._expressions[a]
        with ExitStack() as stack:
            for condition in conditions:
                stack.enter_context(self._analyzer.constraint_scope(self._expressions[condition]))
            return bool(self._analyzer.can_prove(x >= 0)) and bool(self._analyzer.can_prove(x < self._expressions[extent]))

    def free(self, a: int) -> frozenset[int]:
        """The variables in an expression."""
        if a not in self._free:
            e = self._expressions[a]
            found = [e] if isinstance(e, tvm.ir.Var) else tirx.analysis.undefined_vars(e)
            self._free[a] = frozenset(self._of[v] for v in found)
        return self._free[a]

    def is_variable(self, a: int) -> bool:
        """Whether an expression is one variable."""
        return isinstance(self._expressions[a], tvm.ir.Var)

    def replaced(self, a: int, new: Mapping[int, int]) -> int:
        """An expression with others for some of its variables."""
        own = self.free(a) & new.keys()
        if not own:
            return a
        key = (a, *sorted((v, new[v]) for v in own))
        if key not in self._replaced:
            self._replaced[key] = self.walked(a, lambda v: new.get(v, v), self.binary, self.number, self.truth, self.select, self.negated)
        return self._replaced[key]

    def walked(self, a: int, leaf: Callable[[int], Any], binary: Any, number: Any, truth: Any, select: Any, negated: Any) -> Any:
        """An expression built again by these."""

        def walk(e: Any) -> Any:
            if isinstance(e, tvm.ir.Var):
                return leaf(self._of[e])
            if isinstance(e, tirx.IntImm):
                return number(int(e)) if str(e.ty.dtype) != "bool" else truth(bool(e))
            if isinstance(e, tirx.Select):
                return select(walk(e.condition), walk(e.true_value), walk(e.false_value))
            if isinstance(e, tirx.Not):
                return negated(walk(e.a))
            if type(e).__name__ not in _BINARY:
                raise NoRelation(f"a place that is {e}")
            return binary(type(e).__name__, walk(e.a), walk(e.b))

        return walk(self._expressions[a])

    def text(self, a: int) -> str:
        """What errors call it."""
        return str(self._expressions[a])
