"""Opaque states, such as KV caches, at operators whose rules do not know how large their pseudo-dimension is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from spmd.rules.model import Rule, Size, Spec

from .graph import Node, Value


def state_sizes(nodes: Iterable[Node], root: Callable[[Value], Value]) -> dict[Value, int]:
    """The size of the pseudo-dimension of each state that some rule gives one; states that are tied are one."""
    found: dict[Value, int] = {}
    for node in nodes:
        for spec, operand in _operands(node.rule, node):
            size = _size(spec, node.rule) if operand.kind == "object" else None
            if size is not None:
                found.setdefault(root(operand), size)
    return found


def fit_states(node: Node, sizes: Mapping[Value, int]) -> Rule:
    """The rule of `node` with a pseudo-dimension for each of its states that has one.

    A rule says of a state that it takes it sharded in any way (a factor without a size, which is given it here) or nothing: such an
    operator may look into the state, and must have it whole.
    """
    rule = node.rule
    known: dict[str, Size] = dict(rule.sizes)
    whole: set[str] = set()

    def fitted(specs: Sequence[Spec], operands: Sequence[Value]) -> tuple[Spec, ...]:
        made: list[Spec] = []
        for spec, operand in zip(specs, operands, strict=True):
            if operand.kind == "object":
                size = sizes.get(operand)
                if size is None:
                    spec = ()
                elif not spec:
                    name = f"state{len(known)}"
                    known[name], spec = size, (((name,),),)
                    whole.add(name)
                elif _size(spec, rule) is None:
                    known[spec[0][0][0]] = size
            made.append(spec)
        return tuple(made)

    inputs, outputs = fitted(rule.inputs, node.inputs), fitted(rule.outputs, node.outputs)
    if (inputs, outputs) == (rule.inputs, rule.outputs) and known == rule.sizes:
        return rule
    return replace(rule, inputs=inputs, outputs=outputs, sizes=known, whole=rule.whole | whole)


def _operands(rule: Rule, node: Node) -> Iterable[tuple[Spec, Value]]:
    return zip((*rule.inputs, *rule.outputs), (*node.inputs, *node.outputs), strict=True)


def _size(spec: Spec, rule: Rule) -> Size:
    return rule.sizes[spec[0][0][0]] if spec else None
