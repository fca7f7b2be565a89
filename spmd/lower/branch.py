"""An If lowered: every worker takes the same branch, each branch converts for itself, and what both give has one sharding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from spmd.ir.trees import Tree, leaves
from spmd.placement.sharding import Sharding
from spmd.program.graph import Branch, Node, Value

from .scope import Scope

Run = Callable[[Branch], None]
"""Writes the steps of a branch, which are the next ones."""


def is_dataflow(body: relax.SeqExpr) -> bool:
    """Whether all of `body` stands in dataflow blocks."""
    return all(isinstance(block, relax.DataflowBlock) for block in body.blocks)


def emit_if(scope: Scope, node: Node, taken: list[Any], kept: Mapping[Value, Sharding], run: Run) -> None:
    """Write the If that takes its condition by `node`. `kept` says how the values that it gives are kept."""
    call = node.binding.value
    condition = scope.substitute(call.cond, iter(taken))
    assert node.joined is not None
    bodies: list[relax.SeqExpr] = []
    for way, body in ((True, call.true_branch), (False, call.false_branch)):
        with scope.branch():
            bodies.append(_body(scope, body, node.joined, kept, lambda way=way: run((*node.branch, (node.name, way)))))
    result = scope.bb.emit(relax.If(condition, *bodies), node.name)
    values = [v for v in leaves(node.joined) if v.kind != "other"]
    for value, expr in zip(values, scope.parts(result, node.binding.var), strict=True):
        scope.hold(value, kept[value], expr)


def _body(scope: Scope, body: relax.SeqExpr, joined: Tree[Value], kept: Mapping[Value, Sharding], run: Callable[[], None]) -> relax.SeqExpr:
    dataflow = bool(body.blocks) and is_dataflow(body)
    if dataflow:
        scope.bb._begin_dataflow_block()  # pyright: ignore[reportPrivateUsage]
    else:
        scope.bb._begin_binding_block()  # pyright: ignore[reportPrivateUsage]
    run()
    result = scope.result(joined, body.body, lambda value: scope.held(value, kept[value]))
    if dataflow:
        result = scope.bb.emit_output(result)
    block = scope.bb._end_block()  # pyright: ignore[reportPrivateUsage]
    return relax.SeqExpr([block] if len(block.bindings) else [], result)
