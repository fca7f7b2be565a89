"""The predicted time of a list of steps."""

from __future__ import annotations

from collections.abc import Iterable

from spmd.plan.steps import Step, branch_of, seconds
from spmd.program.graph import Branch


def predicted(steps: Iterable[Step]) -> float:
    """All steps one after another; of two branches, the slower."""
    times: dict[Branch, float] = {(): 0.0}
    for step in steps:
        branch = branch_of(step)
        if branch not in times:
            for depth in range(len(branch) + 1):
                times.setdefault(branch[:depth], 0.0)
        times[branch] += seconds(step)
    inside: dict[Branch, dict[str, float]] = {}
    total = 0.0
    for branch in sorted(times, key=len, reverse=True):
        total = times[branch] + sum(inside.get(branch, {}).values())
        if branch:
            slower, name = inside.setdefault(branch[:-1], {}), branch[-1][0]
            slower[name] = max(slower.get(name, 0.0), total)
    return total
