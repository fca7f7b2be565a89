"""Operators that nothing uses are not planned: compilers drop them, and the collectives that they would need with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tvm
from tvm import relax

from spmd.ir.trees import leaves

from .graph import Branch, Function, Node, Value


def drop_dead(function: Function) -> None:
    """Take out operators that nothing uses. Calls of packed and of private functions stay: what they do is not known."""
    live: set[Value] = set(leaves(function.result)) if function.result is not None else set()
    stay = {
        node.branch[:depth] for node in function.nodes if node.branch and not _removable(node) for depth in range(1, len(node.branch) + 1)
    }
    """The branches that do something of their own."""
    kept: list[Node] = []
    for node in reversed(function.nodes):
        if not any(v in live for v in _used(node)) and stay.isdisjoint(_branches(node)) and _removable(node):
            continue
        live.update(node.inputs)
        kept.append(node)
    function.nodes = kept[::-1]


def _used(node: Node) -> Iterable[Value]:
    """What may be used of a node; of an If all or nothing goes."""
    return node.outputs if node.joined is None else leaves(node.joined)


def _branches(node: Node) -> list[Branch]:
    """Both branches of the If that the node belongs to."""
    if node.joined is None:
        return []
    outside, name = (node.branch[:-1], node.branch[-1][0]) if node.outputs else (node.branch, node.name)
    return [(*outside, (name, taken)) for taken in (True, False)]


def _removable(node: Node) -> bool:
    call = node.binding.value
    if isinstance(call, relax.If):
        return _tensors_only(node.binding.var.ty)
    if not isinstance(call, tvm.ir.Call) or not isinstance(call.op, tvm.ir.Op) or call.op.name.startswith("relax.call_"):
        return False
    return bool(call.op.get_attr("FPurity")) and _tensors_only(node.binding.var.ty)


def _tensors_only(ty: Any) -> bool:
    """Whether values of this type are tensors: who uses a shape, a number or an object is not followed."""
    return all(map(_tensors_only, ty.fields)) if isinstance(ty, relax.TupleType) else isinstance(ty, relax.TensorType)


def may_be_constant(function: Function) -> set[Value]:
    """The results that may lie in a constant of the program, of which there is one for all calls: nothing that is given goes into them."""
    own = function.params[: len(function.params) - function.constants]
    told: set[Value] = set(leaves(tuple(own)))
    constant: set[Value] = set()
    for node in function.nodes:
        if node.op == "join" and told.isdisjoint(node.inputs):
            constant.update(node.outputs)
        elif not told.isdisjoint(node.inputs):
            told.update(node.outputs)
    return {value for value in function.returns if value not in told or value in constant}
