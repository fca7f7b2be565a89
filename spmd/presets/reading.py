"""What plans read off a module: its weights, inputs and results by name, and what products do with the dimensions of a weight."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import tvm

from spmd.annotate.specs import result_names, value_names
from spmd.checks import told
from spmd.errors import ShardingError
from spmd.ir.inline import inlined
from spmd.ir.lift import lifted
from spmd.ir.trees import leaves
from spmd.placement.axes import is_name
from spmd.program.build import build_graph
from spmd.program.graph import Function, Graph, Node, Value
from spmd.rules.model import Rule, Spec

_LOG = logging.getLogger("spmd")
_FAR = 8
"""Operators between a weight and the product that it is for: transposes, dequantization."""


def axis_name(where: str, given: Any) -> str:
    """The name of a mesh axis, as a check of arguments."""
    if not isinstance(given, str) or not is_name(given):
        raise ShardingError(where, f"it takes the name of a mesh axis, and got {told(given)}", 'Write "tp".')
    return given


def warn_of(preset: str, names: Sequence[str], what: str) -> None:
    """Log that a preset leaves weights, of which nobody would know."""
    if names:
        shown = ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        _LOG.warning(f"{preset} leaves {shown}, {what}")


class Projection(NamedTuple):
    """A product with a weight: the dimensions of the weight that it sums over, and those that its result has."""

    summed: tuple[int, ...]
    kept: tuple[int, ...]


class Reading:
    """A module as its plans see it."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.graph: Graph = build_graph(lifted(inlined(mod)))
        self.names: dict[str, Value] = value_names(self.graph)
        """All that a spec can name, but results."""
        self.results: dict[str, Value] = result_names(self.graph)
        self.inputs: dict[str, Value] = {n: v for f in self.graph.functions.values() for n, v in _inputs(f).items()}
        """What functions take that is no weight: all before `num_input`; without it the first tensor, and what is as long as it is."""
        self.weights: dict[str, Value] = {n: v for n, v in self.names.items() if v.role in ("weight", "input") and n not in self.inputs}
        self._uses: dict[Value, list[tuple[Node, int]]] = {}
        for function in self.graph.functions.values():
            for node in function.nodes:
                for i, value in enumerate(node.inputs):
                    self._uses.setdefault(value, []).append((node, i))

    def is_table(self, weight: Value) -> bool:
        """Whether rows are taken from it, by number."""
        return any(node.op == "relax.take" and i == 0 for node, i in self._uses.get(weight, ()))

    def product(self, weight: Value) -> Projection | None:
        """The first product that the weight is for, or None where it is for none."""
        if len(weight.shape) < 2:
            return None
        waiting: list[tuple[Value, tuple[frozenset[int], ...], int]] = [
            (weight, tuple(frozenset({i}) for i in range(len(weight.shape))), 0)
        ]
        while waiting:
            value, holds, far = waiting.pop(0)
            for node, i in self._uses.get(value, ()):
                where = _dims_of_factors(node.rule.inputs[i], holds)
                summed = {d for f in _summed(node.rule, i) for d in where.get(f, ())}
                if summed:
                    kept = {d for spec in node.rule.outputs for f in _factors(spec) for d in where.get(f, ())}
                    return Projection(tuple(sorted(summed)), tuple(sorted(kept - summed)))
                if far < _FAR and len(node.outputs) == 1:
                    after = tuple(frozenset(d for f in _factors((dim,)) for d in where.get(f, ())) for dim in node.rule.outputs[0])
                    if any(after):
                        waiting.append((node.outputs[0], after, far + 1))
        return None


def _inputs(function: Function) -> dict[str, Value]:
    """The inputs of a function by name; where nothing says how many there are, they are told from weights by their length."""
    found = [v for p in function.params for v in leaves(p) if v.role == "input" and v.is_tensor]
    if function.num_input is not None or not found:
        return {v.path: v for v in found}
    first = next((v for v in found if v.shape), found[0])
    return {v.path: v for v in found if v is first or str(v.dims[:1]) == str(first.dims[:1])}


def _factors(spec: Spec) -> list[str]:
    return [f for dim in spec for piece in dim for f in piece]


def _dims_of_factors(spec: Spec, holds: tuple[frozenset[int], ...]) -> dict[str, frozenset[int]]:
    """The dimensions of the weight that each factor runs over."""
    found: dict[str, frozenset[int]] = {}
    for dim, weight_dims in zip(spec, holds, strict=True):
        for f in _factors((dim,)):
            found[f] = found.get(f, frozenset[int]()) | weight_dims
    return found


def _summed(rule: Rule, at: int) -> set[str]:
    """The factors of an input that are summed over together with another one's."""
    if rule.reduce != "sum" or rule.sparse:
        return set()
    others = {f for i, spec in enumerate(rule.inputs) if i != at for f in _factors(spec)}
    return set(_factors(rule.inputs[at])) & others & set(rule.reduced)
