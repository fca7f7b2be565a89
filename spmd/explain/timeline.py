"""The predicted time line of a plan: its steps one after another, as its predicted times have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spmd.errors import ShardingError, nearest
from spmd.plan.branches import slowest_way
from spmd.plan.model import Plan
from spmd.plan.steps import Bundle, Compute, Reorder, Step, Transfer, seconds
from spmd.plan.timeline import COLLECTIVE, COMPUTE, FUNCTION, Span, Timeline

_MOST = 16
"""Workers that are written one by one; all do the same."""


def timeline(plan: Plan, function: str | None = None) -> Timeline:
    """A function, or all of them one after another, on each worker. Raises `ShardingError` for a function that the plan does not have."""
    if function is not None and function not in plan.steps:
        raise ShardingError("Plan.timeline", f"there is no function {function!r}", nearest(function, plan.steps))
    spans: list[Span] = []
    now = 0.0
    for name in plan.steps if function is None else (function,):
        whole = Span(FUNCTION, name, now, plan.predicted[name])
        spans += [whole, *_inside(plan, name, now)]
        now = whole.end
    shown = min(plan.mesh.size, _MOST)
    return Timeline("predicted", dict.fromkeys(range(shown), spans), plan.mesh.size - shown)


def _inside(plan: Plan, function: str, begin: float) -> Iterator[Span]:
    """What is done in a function, in order; the steps of a loop as long as all its turns take."""
    steps = slowest_way(plan.steps[function])
    once = sum(map(seconds, steps))
    turns = plan.predicted[function] / once if once else 1.0
    more: dict[str, Any] = {"turns": round(turns)} if function in plan.loops else {}
    now = begin
    for step in steps:
        for kind, name, took, details in _parts(plan, step):
            if took > 0:
                yield Span(kind, name, now, took * turns, {**details, **more})
            now += took * turns


def _parts(plan: Plan, step: Step) -> Iterator[tuple[str, str, float, dict[str, Any]]]:
    """What a step does, part by part: kind, name, seconds, details. An operator sends after it has computed."""
    if isinstance(step, Compute):
        sent = sum(e.seconds for e in step.exchanges)
        yield COMPUTE, f"{step.op.removeprefix('relax.')} {step.name}", step.seconds - sent, {"split": step.split_text}
        for e in step.exchanges:
            yield COLLECTIVE, f"{e.kind} {e.axis} in {step.name}", e.seconds, {"bytes": e.bytes}
    elif isinstance(step, Transfer | Bundle):
        moved = step.transfers if isinstance(step, Bundle) else (step,)
        names = ", ".join(_short(plan, transfer.value) for transfer in moved)
        details = {"bytes": sum(t.bytes for t in moved), "from": str(moved[0].move.source), "to": str(moved[0].move.target)}
        yield COLLECTIVE, f"{moved[0].move.kind} {moved[0].move.axis} {names}", seconds(step), details
    elif isinstance(step, Reorder):
        yield COMPUTE, f"{step.kind} {_short(plan, step.value)}", step.seconds, {"to": str(step.move.target)}


def _short(plan: Plan, value: str) -> str:
    return value if value in plan.params else value.partition(".")[2]
