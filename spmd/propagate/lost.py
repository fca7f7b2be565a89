"""Splits that are lost because a size is symbolic: notes that name the operator, the size and the way out.

An operator that takes whole what is kept split, or makes whole what is wanted split, does so by choice where its rule could take the
split; where it could not, and would if the size were a number, the symbolic size is why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tvm
import tvm_ffi

from spmd.costs.planning_sizes import PlanningSizes
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Sharding, Split
from spmd.program.graph import Function, Node, Value
from spmd.rules.kernel import KERNEL_CALLS
from spmd.rules.model import Rule, Spec
from spmd.rules.registry import OpCall, rule_of
from spmd.rules.strategy import Strategy, complete, splits_from, strategy_of

_FAR = 64
"""How many operators are asked, at most, where a split is lost after some that could keep it."""


@dataclass(frozen=True)
class Lost:
    """Dimension `dim` of the operand (or result) number `at` of an operator, split as `split`, which it cannot take."""

    node: Node
    is_output: bool
    at: int
    dim: int
    split: Split

    @property
    def value(self) -> Value:
        """The operand or result."""
        return (self.node.outputs if self.is_output else self.node.inputs)[self.at]


def lost_splits(function: Function, kept: Callable[[Value], Sharding], strategy: Callable[[Node], Strategy], mesh: Mesh) -> list[str]:
    """A note for each operator of `function` that loses a split because a size is symbolic. `kept` is how the plan keeps a value,
    `strategy` how it runs an operator.
    """
    if not any(None in value.shape for node in function.nodes for value in (*node.inputs, *node.outputs)):
        return []
    readers: dict[Value, list[tuple[Node, int]]] = {}
    makers: dict[Value, tuple[Node, int]] = {}
    for node in function.nodes:
        for i, value in enumerate(node.inputs):
            readers.setdefault(value, []).append((node, i))
        makers.update({value: (node, i) for i, value in enumerate(node.outputs)})
    wanted = {
        value: kept(asked) if isinstance(asked, Value) else asked.first
        for value, asked, _ in function.at_end
        if asked is not None and value.is_tensor
    }
    notes: dict[str, None] = {}
    made: dict[Value, Sharding] = {}
    for node in function.nodes:
        chosen = strategy(node)
        for i, (value, taken) in enumerate(zip(node.inputs, chosen.inputs, strict=True)):
            for source in _others(taken, kept(value), made.get(value, taken)):
                for loss in _gone(node, False, i, value, source, taken):
                    notes.update(dict.fromkeys(_blamed(loss, readers, makers, mesh)))
        made.update(zip(node.outputs, chosen.outputs, strict=True))
        for i, value in enumerate(node.outputs):
            for end in _others(made[value], kept(value), wanted.get(value, made[value])):
                for loss in _gone(node, True, i, value, end, made[value]):
                    notes.update(dict.fromkeys(_blamed(loss, readers, makers, mesh)))
    return list(notes)


def _others(found: Sharding, *wanted: Sharding) -> list[Sharding]:
    """Those of what is wanted that are not found: where all is as it should be, and that is mostly one object, nothing is lost."""
    return [] if all(one is found for one in wanted) else list(dict.fromkeys(wanted))


def _gone(node: Node, is_output: bool, at: int, value: Value, wanted: Sharding, found: Sharding) -> Iterator[Lost]:
    """The dimensions that `wanted` splits and `found` holds whole."""
    if value.is_tensor and not node.no_rule and node.joined is None:
        for dim, (split, other) in enumerate(zip(wanted.dims, found.dims, strict=True)):
            if split is not None and other is None:
                yield Lost(node, is_output, at, dim, split)


def _blamed(
    loss: Lost, readers: Mapping[Value, list[tuple[Node, int]]], makers: Mapping[Value, tuple[Node, int]], mesh: Mesh
) -> Iterator[str]:
    """Notes on the operators that make the split impossible: this one, or those that its results go to (its operands come from)."""
    queue, seen = [loss], {(loss.node, loss.value)}
    for _ in range(_FAR):
        if not queue:
            return
        loss = queue.pop(0)
        possible = _taken(loss.node.rule, loss, loss.split, mesh)
        if possible is None:
            if _is_symbol_why(loss, mesh):
                yield _note(loss, mesh)
            continue
        ends, shardings = (loss.node.inputs, possible.inputs) if loss.is_output else (loss.node.outputs, possible.outputs)
        for value, sharding in zip(ends, shardings, strict=True):
            made = [makers[value]] if loss.is_output and value in makers else []
            for node, at in made if loss.is_output else readers.get(value, []):
                if (node, value) not in seen and not node.no_rule and node.joined is None:
                    seen.add((node, value))
                    queue += _gone(node, loss.is_output, at, value, sharding, Sharding.replicated(len(sharding.dims)))


def _taken(rule: Rule, loss: Lost, split: Split, mesh: Mesh) -> Strategy | None:
    """The strategy of a rule that takes (or makes) the value split so in that dimension."""
    spec = (rule.outputs if loss.is_output else rule.inputs)[loss.at]
    only = Sharding(tuple(split if dim == loss.dim else None for dim in range(len(spec))))
    splits = splits_from(spec, only, rule, mesh)
    return strategy_of(rule, complete(rule, splits, mesh), mesh) if splits else None


def _is_symbol_why(loss: Lost, mesh: Mesh) -> bool:
    """Whether the same operator could take the split if all its sizes were numbers."""
    node = loss.node
    if not _symbols(node):
        return False
    if node.op in KERNEL_CALLS:
        return loss.value.shape[loss.dim] is None
    workers = mesh.axis_size(*loss.split.axes)
    sizes = PlanningSizes({name: 8 * workers * (i + 1) for i, name in enumerate(_symbols(node))})
    ins, outs = tuple(map(sizes.shape, node.inputs)), tuple(map(sizes.shape, node.outputs))
    try:
        states = [tuple([v.kind == "object" for v in values]) for values in (node.inputs, node.outputs)]
        rule = rule_of(OpCall(node.op, node.binding.value, ins, outs, ins, outs, None, *states))
    except ShardingError:  # the arguments of the call say otherwise
        return loss.value.shape[loss.dim] is None
    known = loss.split if loss.split.is_known else Split(loss.split.axes, (Segment(sizes.shape(loss.value)[loss.dim]),))
    return rule is not None and _taken(rule, loss, known, mesh) is not None


def _note(loss: Lost, mesh: Mesh) -> str:
    """What is lost, why, and what to do."""
    node, verb, workers = loss.node, "makes" if loss.is_output else "takes", mesh.axis_size(*loss.split.axes)
    linked, own = _linked(loss), _names(loss.value.dims[loss.dim])
    helping = [name for name in linked if _would_help(node, name, name in own, loss.split, mesh)]
    instead = f"let it be split: divisible={{{helping[0]!r}: {workers}}}" if helping else "split another dimension"
    return (
        f"{node.op} {node.name!r} of {node.function!r} {verb} dimension {loss.dim} of {loss.value.name!r} whole, and not split as "
        f"{loss.split}, because of the symbolic size{'s' if len(linked) > 1 else ''} {', '.join(map(repr, linked))}. "
        f"Give {(helping or linked)[0]!r} a number, or {instead}"
    )


def _would_help(node: Node, name: str, own: bool, split: Split, mesh: Mesh) -> bool:
    """Whether the operator could run split along a symbolic size, if that were said to be divisible; `own` if it is in what is lost."""
    rule, workers = node.rule, mesh.axis_size(*split.axes)
    for spec, value in zip((*rule.inputs, *rule.outputs), (*node.inputs, *node.outputs), strict=True):
        for dim, size in zip(spec, value.dims, strict=False):
            if isinstance(size, tvm.ir.Var) and size.name == name and len(dim) == 1 and len(dim[0]) == 1:
                factor = dim[0][0]
                if factor in rule.forms or (own and (rule.sizes[factor] or 1) % workers == 0):
                    return False
                told = replace(rule, sizes={**rule.sizes, factor: workers}, symbolic=rule.symbolic | {factor})
                return strategy_of(told, {factor: Split(split.axes, (Segment(workers),), symbolic=True)}, mesh) is not None
    return False


def _linked(loss: Lost) -> list[str]:
    """The symbols in the dimensions that go together with the one that is lost, major ones first; else all of the operator's."""
    rule, node = loss.node.rule, loss.node
    specs: tuple[Spec, ...] = (*rule.inputs, *rule.outputs)
    own = {f for piece in (rule.outputs if loss.is_output else rule.inputs)[loss.at][loss.dim] for f in piece}
    found: dict[str, None] = {}
    for spec, value in zip(specs, (*node.inputs, *node.outputs), strict=True):
        for dim, size in zip(spec, value.dims, strict=False):
            if any(f in own for piece in dim for f in piece):
                found.update(dict.fromkeys(_names(size)))
    return list(found) or _symbols(node)


def _symbols(node: Node) -> list[str]:
    return list(dict.fromkeys(name for value in (*node.inputs, *node.outputs) for size in value.dims for name in _names(size)))


def _names(size: Any) -> list[str]:
    """The variables in a size."""
    found: list[Any] = []
    if not isinstance(size, int):
        tvm_ffi.structural_walk(size, [((tvm.ir.Var,), found.append)])
    return [str(var.name) for var in found]
