"""What symbolic sizes are taken for while a plan is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx

from spmd.errors import ShardingError, nearest
from spmd.program.graph import Function, Graph, Node, Value

DEFAULT_SIZE = 64
"""What a symbolic size is taken for when nobody says."""
TURNS = 8
"""How often a loop is taken to run when nobody says."""


def planning_sizes(sizes: Mapping[str, int] | None, divisible: Mapping[str, int] | None) -> dict[str, int]:
    """What symbolic sizes are taken for: what `sizes` says, else the default made divisible. Raises where the two contradict."""
    found = dict(sizes or {})
    for name, by in (divisible or {}).items():
        found.setdefault(name, -(-DEFAULT_SIZE // by) * by)
        if found[name] % by:
            what = f"sizes[{name!r}] is {found[name]}, and divisible[{name!r}] is {by}"
            raise ShardingError("sizes", what, "Give a size that is a multiple.")
    return found


def symbols_of(mod: tvm.IRModule) -> list[str]:
    """The names of all symbolic sizes in the Relax functions of a module."""
    found: dict[str, None] = {}

    def visit(var: Any) -> None:
        if isinstance(var.ty, tvm.ir.PrimType):
            found[str(var.name)] = None

    for _, function in mod.functions_items():
        if isinstance(function, relax.Function):
            tvm_ffi.structural_walk(function, [((tvm.ir.Var,), visit)])
    return list(found)


def check_symbols(graph: Graph, **given: Mapping[str, int] | None) -> None:
    """Raise `ShardingError` for a name in ``sizes=`` or ``divisible=`` that is that of no symbolic size."""
    known: list[str] | None = None
    for argument, sizes in given.items():
        for name in sizes or {}:
            if known is None:  # sizes that only the program knows have names too
                unknown = [d.name for v in graph.values for d in v.dims if isinstance(d, tvm.ir.Var)]
                known = list(dict.fromkeys([*symbols_of(graph.module), *unknown]))
            if argument == "sizes" and name in graph.functions and graph.functions[name].is_loop:  # how often it runs
                continue
            if name not in known and (known or argument == "divisible"):  # else it predicts nothing, and promises nothing
                what = f"no symbolic size has the name {name!r}"
                has = f"The module has {', '.join(map(repr, known[:6]))}." if known else "The module has no symbolic sizes."
                raise ShardingError(argument, what, f"{has} {nearest(name, known)}".rstrip())


class PlanningSizes:
    """Numbers in the place of symbolic sizes, by name."""

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self.sizes = dict(sizes or {})
        self.guessed: dict[str, None] = {}
        """Those that were asked for and `sizes` does not have."""
        self._shapes: dict[Value, tuple[int, ...]] = {}

    def shape(self, value: Value) -> tuple[int, ...]:
        """The planning shape of a value."""
        found = self._shapes.get(value)
        if found is None:
            known = value.shape if None not in value.shape else None
            found = self._shapes[value] = tuple([self.size(d) for d in (value.dims if known is None else known)])
        return found

    def size(self, dim: Any) -> int:
        """The planning size of one dimension."""
        if isinstance(dim, int):
            return dim
        if isinstance(dim, tirx.IntImm):
            return int(dim.value)
        if isinstance(dim, tvm.ir.Var):
            if dim.name not in self.sizes:
                self.guessed[dim.name] = None
            return self.sizes.get(dim.name, DEFAULT_SIZE)
        if isinstance(dim, tirx.Cast):
            return self.size(dim.value)
        if isinstance(dim, tirx.Add | tirx.Sub | tirx.Mul | tirx.FloorDiv | tirx.FloorMod | tirx.Min | tirx.Max):
            a, b = self.size(dim.a), self.size(dim.b)
            kind = type(dim).__name__
            found = {
                "Add": a + b,
                "Sub": a - b,
                "Mul": a * b,
                "FloorDiv": a // (b or 1),
                "FloorMod": a % (b or 1),
                "Min": min(a, b),
                "Max": max(a, b),
            }
            return max(found[kind], 0)
        return DEFAULT_SIZE

    def turns(self, function: Function) -> int:
        """How often a function runs where it is called once: a loop as often as `sizes` says by its name."""
        return self.sizes.get(function.name, TURNS) if function.is_loop else 1

    def of_factors(self, node: Node) -> dict[str, int]:
        """The size of each factor of an operator, symbolic ones read off the planning shapes."""
        rule = node.rule
        sizes = {f: s for f, s in rule.sizes.items() if s is not None and f not in rule.symbolic}
        for spec, value in zip((*rule.inputs, *rule.outputs), (*node.inputs, *node.outputs), strict=True):
            if not value.is_tensor:
                continue
            for dim, size in zip(spec, value.dims, strict=True):
                if len(dim) == 1 and len(dim[0]) == 1:
                    sizes.setdefault(dim[0][0], self.size(size))
        return sizes
