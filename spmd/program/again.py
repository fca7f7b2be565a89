"""Which values of a graph can be made again, from when on, and the module in which they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import tvm
from tvm import relax

from spmd.errors import ShardingError
from spmd.ir.again import made_again
from spmd.rules.kernel import KERNEL_CALLS

from .graph import PASSING, Function, Graph, Node, Value
from .storage import VIEWS

Again = Mapping[str, str]
"""Value, by name -> what the operator makes from which on those who read it read what is made again."""
_WAY_OUT = "Name what operators of Relax make of tensors, outside of loops and branches."
_CHANCE = ("random", "dropout", "multinomial")


def can_be_made_again(function: Function) -> Callable[[Node], bool]:
    """Whether an operator of the function may run again: what it makes is the same then, and it does nothing else."""
    writes = any(node.writes for node in function.nodes)  # what it reads may be written meanwhile

    def can(node: Node) -> bool:
        plain = node.op.startswith("relax.") and not node.op.startswith("relax.call_") and not any(c in node.op for c in _CHANCE)
        kernel = node.op in KERNEL_CALLS and node.op == "relax.call_tir" and not node.no_rule
        tensors = bool(node.outputs) and all(v.is_tensor for v in (*node.inputs, *node.outputs))
        return (plain or kernel) and tensors and not (writes or node.branch or node.called or node.joined or node.op in PASSING)

    return can


def asked_again(graph: Graph) -> tuple[dict[str, str], list[str]]:
    """What is asked to be made again, and notes of what is not, as it is read at one place alone.

    Raises `ShardingError` for what cannot be made again.
    """
    found: dict[str, str] = {}
    notes: list[str] = []
    for function in graph.functions.values():
        asked = {v: v.remat for node in function.nodes for v in node.outputs if v.remat}
        can, marked = can_be_made_again(function), dict[Value, str]()
        for value, why in asked.items():
            node = function.makers[value]
            if not can(node):
                where = f"{function.name}: {node.op} {node.name!r}"
                raise ShardingError(where, f"what it makes cannot be made again{_place(function, node)}, and {why}", _WAY_OUT)
            marked[value] = why
            while node.op in VIEWS and (made := function.makers.get(node.inputs[0])) is not None and can(made):
                marked.setdefault(node.inputs[0], why)
                node = made
        late = _pauses(function, marked)
        found.update(late)
        missed = [value.name for value in asked if function.makers[value].outputs[0].path not in late]
        if missed:
            notes.append(f"{function.name}: {', '.join(map(repr, missed))} not made again, as nothing reads it late")
    return found, notes


def _pauses(function: Function, marked: Mapping[Value, str]) -> dict[str, str]:
    """From when on what is marked is read late: behind the longest pause between two operators that read it, or views of it."""
    at, end = {node: i for i, node in enumerate(function.nodes)}, len(function.nodes)
    found: dict[Value, int] = {}
    for value in reversed([v for node in function.nodes for v in node.outputs if v in marked]):
        uses = [at[function.makers[value]], *(at[node] for node in _readers(function, value))]
        # What is made again of it is made where that is read.
        uses += [found[v] for node in function.readers.get(value, ()) for v in node.outputs if v in found]
        uses = sorted(set(uses) | ({end} if value in function.returns else set()))
        pause, after = max(((b - a, b) for a, b in pairwise(uses)), default=(0, end))
        if pause > 1 and after < end:
            found[value] = after
    return {function.makers[v].outputs[0].path: name_of(function.nodes[i]) for v, i in found.items()}


def _place(function: Function, node: Node) -> str:
    """Where an operator stands, if it is for this that it runs once."""
    if function.is_loop:
        return f", as {function.name!r} is a loop"
    return f", as it stands in a branch of {node.branch[-1][0]!r}" if node.branch else ""


def _readers(function: Function, value: Value) -> Iterable[Node]:
    """Who reads a value, or a view of it."""
    for node in function.readers.get(value, ()):
        yield node
        if node.op in VIEWS and len(node.outputs) == 1:
            yield from _readers(function, node.outputs[0])


def name_of(node: Node) -> str:
    """What an operator makes, by name; of an If, the first of what it gives."""
    return node.outputs[0].path if node.outputs else f"{node.function}.{node.name}"


def with_again(graph: Graph, again: Again) -> tvm.IRModule:
    """The module of a graph with what is made again. Raises `ShardingError` for names that it does not have."""
    if not again:
        return graph.module
    functions = dict(graph.module.functions_items())
    left = dict(again)
    for name, function in graph.functions.items():
        of = {node.outputs[0].path: node for node in function.nodes if node.outputs}
        mine = {value: left.pop(value) for value in again if value in of}
        if mine:
            (var,) = [var for var in functions if var.name_hint == name]
            functions[var] = made_again(functions[var], _late(function, functions[var], mine, of))
    if left:
        first, (value, after) = "plan", next(iter(left.items()))
        raise ShardingError(first, f"it makes {value!r} again for {after!r}, and the module has no such value", "Plan this module.")
    return relax.transform.Normalize()(tvm.IRModule(functions, attrs=graph.module.attrs, global_infos=graph.module.global_infos))


def _late(function: Function, source: Any, mine: Again, of: Mapping[str, Node]) -> dict[int, int]:
    """From which binding on each variable is read late, by hash."""
    numbers = {hash(binding.var): i for i, binding in enumerate(b for block in source.body.blocks for b in block.bindings[:])}
    outside = {node.name: node for node in function.nodes if node.op == "If" and not node.branch}
    named = {**{name_of(node): node for node in function.nodes}, **of}
    can, late = can_be_made_again(function), dict[int, int]()
    for value, after in mine.items():
        first = named.get(after)
        if first is not None and first.branch:
            first = outside[first.branch[0][0]]
        if first is None or hash(first.binding.var) not in numbers or not can(of[value]):
            raise ShardingError("plan", f"it makes {value!r} again for {after!r}, which the module does not allow", "Plan this module.")
        late[hash(of[value].binding.var)] = numbers[hash(first.binding.var)]
    return late
