"""The collectives of a plan, and why each is there: read off its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from spmd.placement.sharding import Sharding

from .decisions import Collective
from .steps import MADE, RETURNED, Bundle, Cause, Compute, Step, Transfer, computes, conversions

LookUp = Callable[[str], tuple[str, str, Sharding]]
"""From a value as steps name it to its name within the function, its dtype, and how it is kept."""


def collectives(function: str, steps: Sequence[Step], look_up: LookUp) -> list[Collective]:
    """Those of one function in the order in which they run."""
    return list(_Reader(function, steps, look_up).run(steps))


def why(cause: Cause, operators: Sequence[Compute], value: str, source: Sharding, target: Sharding) -> str:
    """Who makes a value how, and who wants it how."""
    if cause.role == RETURNED:
        return f"{value!r} is kept as {source}, {cause.why}"
    node = operators[cause.at]
    if cause.role == MADE:
        return f"{node.op} makes {value!r} as {source}, it is kept as {target}"
    return f"{value!r} is kept as {source}, {node.op} {node.name!r} takes it as {target}"


class _Reader:
    def __init__(self, function: str, steps: Sequence[Step], look_up: LookUp) -> None:
        self.function, self.look_up = function, look_up
        self.operators = computes(steps)
        self.ends = {id(step): (moves[0].move.source, moves[-1].move.target) for moves in conversions(steps) for step in moves}
        """How a value is before and after all the moves that a transfer is one of."""

    def run(self, steps: Sequence[Step]) -> Iterator[Collective]:
        """All of them."""
        at, bundle = 0, 0
        for step in steps:
            if isinstance(step, Compute):
                yield from self._inside(step, at)
                at += 1
            elif isinstance(step, Transfer):
                yield self._of(step, 0)
            elif isinstance(step, Bundle):
                bundle += 1
                yield from (self._of(transfer, bundle) for transfer in step.transfers)

    def _inside(self, node: Compute, at: int) -> Iterator[Collective]:
        """The collectives inside an operator."""
        reason = f"{node.op} {node.name!r} runs split: {node.split_text}" if node.exchanges else ""
        for e in node.exchanges:
            named = (e.kind, e.axis, e.bytes, self.function, node.name, reason, e.dtype, "", node.branch)
            yield Collective(*named, e.seconds, node.op, at, node.span)

    def _of(self, step: Transfer, bundle: int) -> Collective:
        move, at, (value, dtype, kept) = step.move, step.cause.at, self.look_up(step.value)
        node = self.operators[at] if at >= 0 else None
        source, target = self.ends[id(step)]
        # It may go on from where another conversion came by: that is not how the value is kept.
        reason = why(step.cause, self.operators, value, source if step.cause.role == MADE else kept, target)
        named = (move.kind, move.axis, step.bytes, self.function, value, reason, dtype, move.reduce, step.branch)
        made_by = (node.op, at, node.span) if node is not None else ("", -1, "")
        return Collective(*named, step.seconds, *made_by, source, target, bundle)
