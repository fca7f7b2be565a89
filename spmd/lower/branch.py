"""An If lowered: every worker takes the same branch, each branch converts for itself, and what both give has one sharding."""

from __future__ import annotations

from collections import ChainMap, deque
from typing import TYPE_CHECKING

from tvm import relax

from spmd.ir.trees import Tree, leaves
from spmd.plan.steps import Compute
from spmd.program.graph import Branch, Node, Value

if TYPE_CHECKING:
    from .function import FunctionLowering, Local

Steps = deque[tuple[Node, Compute]]
"""What is left to lower, in order."""


def is_dataflow(body: relax.SeqExpr) -> bool:
    """Whether all of `body` stands in dataflow blocks."""
    return all(isinstance(block, relax.DataflowBlock) for block in body.blocks)


def emit_if(into: FunctionLowering, node: Node, choice: Compute, steps: Steps) -> None:
    """Emit the If whose condition `node` takes; the nodes of its branches are the next of `steps`."""
    call = node.binding.value
    condition = into.substitute(call.cond, iter([into.take(v, s).expr for v, s in zip(node.inputs, choice.inputs, strict=True)]))
    assert node.joined is not None
    values = [v for v in leaves(node.joined) if v.kind != "other"]
    held, kept = into.held, into.kept
    bodies: list[relax.SeqExpr] = []
    given: list[list[Local]] = []
    for taken, body in ((True, call.true_branch), (False, call.false_branch)):
        into.held, into.kept = ChainMap({}, held), ChainMap({}, kept)  # what one branch converts is not there in the other, or after
        bodies.append(_body(into, body, node.joined, (*node.branch, (node.name, taken)), steps))
        given.append([into.as_kept(v) for v in values])
    into.held, into.kept = held, kept
    result = into.bb.emit(relax.If(condition, *bodies), node.name)
    for value, expr, first, second in zip(values, into.parts(result, node.binding.var), *given, strict=True):
        into.hold(value, type(first)(expr, first.sharding, first.zero and second.zero))


def _body(into: FunctionLowering, body: relax.SeqExpr, joined: Tree[Value], branch: Branch, steps: Steps) -> relax.SeqExpr:
    dataflow = bool(body.blocks) and is_dataflow(body)
    if dataflow:
        into.bb._begin_dataflow_block()  # pyright: ignore[reportPrivateUsage]
    else:
        into.bb._begin_binding_block()  # pyright: ignore[reportPrivateUsage]
    into.run_branch(steps, branch)
    result = into.result(joined, body.body, lambda value: into.as_kept(value).expr)
    if dataflow:
        result = into.bb.emit_output(result)
    block = into.bb._end_block()  # pyright: ignore[reportPrivateUsage]
    return relax.SeqExpr([block] if len(block.bindings) else [], result)
