"""Which results are written into the memory of the parameter that they replace: what `schedules.donation` does, told from the graph.

It is where nothing reads the parameter after the result is made, and its kernel reads it, if at all, element by element.
"""

from __future__ import annotations

from spmd.ir.inline import IN_PLACE
from spmd.program.graph import Function, Node, Value
from spmd.program.storage import VIEWS

from .fusion import fused, is_arithmetic

_MAY_ALIAS = ("relax.call_pure_packed", *IN_PLACE)
"""Operators that may give what they are given."""


def written_in_place(function: Function) -> frozenset[int]:
    """The leaves of the result, by number, that need no memory of their own."""
    found: dict[Value, int] = {}
    for number, param in function.donated.items():
        value = function.returns[number]
        if value not in found and _is_in_place(function, value, param):
            found[value] = number
    return frozenset(found.values())


def _is_in_place(function: Function, value: Value, param: Value) -> bool:
    maker = function.makers.get(value)
    if maker is None or maker.branch or maker.op in VIEWS or maker.op in _MAY_ALIAS or not maker.op.startswith("relax."):
        return False
    lying, last = {param}, 0
    for at, node in enumerate(function.nodes):
        if not lying.isdisjoint(node.inputs):
            last = at
            if node.op in VIEWS or node.op in _MAY_ALIAS or not node.op.startswith("relax."):
                lying.update(node.outputs)
    if not lying.isdisjoint(function.returns) or last > function.nodes.index(maker):
        return False
    return _reads_in_place(_kernel(function, maker), lying, param)


def _kernel(function: Function, last: Node) -> list[Node]:
    """The operators of the kernel that ends in this one, in order."""
    inside, waiting, unwritten = {last}, [last], fused(function)
    while waiting:
        for value in waiting.pop().inputs:
            node = function.makers.get(value)
            if value in unwritten and node is not None and node not in inside:
                inside.add(node)
                waiting.append(node)
    return [node for node in function.nodes if node in inside]


def _reads_in_place(kernel: list[Node], lying: set[Value], param: Value) -> bool:
    """Whether a kernel makes each element of its result from the same element of the parameter, of all that there are."""
    followed = {param}
    for node in kernel:
        for i, value in enumerate(node.inputs):
            if value in followed or value in lying:
                alike = node.rule.inputs[i] == node.rule.outputs[0] if is_arithmetic(node) else False
                if value not in followed or not alike:
                    return False
                followed.update(node.outputs)
    return True
