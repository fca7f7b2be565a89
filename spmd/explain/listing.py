"""The steps of a function as text, line by line: what each worker takes, does and returns. Equal layers are listed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

from spmd.errors import ShardingError, nearest
from spmd.ir.trees import leaves
from spmd.plan.model import Plan
from spmd.plan.steps import Bundle, Compute, Mask, Reorder, Return, Step, Transfer, branch_of

from .repeats import repeats
from .tables import folded

_LOCAL = {"slice": "keep a part", "pack": "put into the order of shards", "unpack": "put into its own order"}


def listing(plan: Plan, function: str) -> str:
    """All that a worker does in a function. Raises `ShardingError` for a function that the plan does not have."""
    if function not in plan.steps:
        raise ShardingError("Plan.listing", f"there is no function {function!r}", nearest(function, plan.steps))
    return "\n".join([f"{function}, on each worker of {plan.mesh}:", *_taken(plan, function), *_Lines(plan, function).run()])


def _taken(plan: Plan, function: str) -> Iterator[str]:
    """The parameters, those of equal layers in one line."""
    signature = plan.signatures[function]
    given = [leaf for leaf in leaves((*signature.params, *signature.constants)) if leaf.sharding is not None]
    for (name, sharding), count in Counter((folded(leaf.name), leaf.sharding) for leaf in given).items():
        yield f"  take {name} {sharding}" + (f" ({count} of them)" if count > 1 else "")


class _Lines:
    def __init__(self, plan: Plan, function: str) -> None:
        self.plan, self.function, self.steps = plan, function, plan.steps[function]

    def run(self) -> Iterator[str]:
        """The lines of all steps."""
        at = 0
        for found in repeats([self._kind(step) for step in self.steps]):
            yield from self._some(at, found.start)
            yield f"  {found.count} times, each as the first:"
            yield from (f"  {line}" for line in self._some(found.start, found.start + found.period))
            at = found.start + found.period * found.count
        yield from self._some(at, len(self.steps))

    def _some(self, start: int, stop: int) -> Iterator[str]:
        for step in self.steps[start:stop]:
            indent = "  " * (1 + len(branch_of(step)))
            yield from (indent + line for line in self._lines(step))

    def _lines(self, step: Step) -> list[str]:
        if isinstance(step, Compute):
            return [self._compute(step)]
        if isinstance(step, Transfer):
            return [f"{self._name(step.value)}: {step.move.kind} over {step.move.axis}, {self._moved(step)}"]
        if isinstance(step, Bundle):
            first = step.transfers[0].move
            members = [f"  {self._name(t.value)}: {self._moved(t)}" for t in step.transfers]
            return [f"in one call, {first.kind} over {first.axis}:", *members]
        if isinstance(step, Reorder):
            ends = f", {step.move.source} -> {step.move.target}" if step.kind == "slice" else ""
            return [f"{self._name(step.value)}: {_LOCAL[step.kind]}{ends}"]
        if isinstance(step, Mask):
            return [f"{self._name(step.value)} {step.sharding}: fill padding for a {step.reduce}"]
        return ["return " + ", ".join(f"{self._name(v)} {s}" for v, s in zip(step.operands, step.shardings, strict=True))]

    def _compute(self, step: Compute) -> str:
        where = "".join(f", when {name!r} is {str(way).lower()}" for name, way in step.branch[-1:])
        made = ", ".join(map(self._name, step.results)) or step.name
        taken = ", ".join(f"{self._name(v)} {s}" for v, s in zip(step.operands, step.inputs, strict=False))
        inside = "".join(f", with {e.kind} over {e.axis}, {e.bytes} bytes" for e in step.exchanges)
        return f"{made} = {step.op.removeprefix('relax.')}({taken}) {', '.join(map(str, step.outputs))}".rstrip() + inside + where

    def _moved(self, step: Transfer) -> str:
        return f"{step.move.source} -> {step.move.target}, {step.bytes} bytes"

    def _name(self, value: str) -> str:
        return value if value in self.plan.params else value.removeprefix(f"{self.function}.")

    def _kind(self, step: Step) -> Hashable:
        """What a step has in common with those of other layers: all but names and places."""
        branch = branch_of(step)
        if isinstance(step, Compute):
            shapes = tuple(self.plan.tensors[v].shape if v in self.plan.tensors else () for v in (*step.operands, *step.results))
            return (step.op, step.inputs, step.outputs, shapes, step.exchanges, branch)
        if isinstance(step, Bundle):
            return tuple((t.move, t.bytes) for t in step.transfers)
        if isinstance(step, Transfer | Reorder):
            return (type(step), getattr(step, "kind", ""), step.move, step.cause.role, branch)
        if isinstance(step, Mask):
            return (step.sharding, step.operand, step.reduce, branch)
        return Return
