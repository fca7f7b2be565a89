"""The way through the branches of a list of steps that takes longest: of two branches of an If one is run."""

from __future__ import annotations

from collections.abc import Iterable

from .steps import Branch, Step, branch_of, seconds


def slowest_way(steps: Iterable[Step]) -> list[Step]:
    """The steps that are run where every If goes the way that takes longer; at equal times that of its first step."""
    steps = list(steps)
    times: dict[Branch, float] = {(): 0.0}
    for step in steps:
        branch = branch_of(step)
        for depth in range(len(branch) + 1):
            times.setdefault(branch[:depth], 0.0)
        times[branch] += seconds(step)
    ways: dict[Branch, dict[str, Branch]] = {}
    """Branch -> the Ifs in it -> the way that takes longer."""
    for branch in sorted(times, key=len, reverse=True):
        times[branch] += sum(times[way] for way in ways.get(branch, {}).values())
        if branch:
            inside, name = ways.setdefault(branch[:-1], {}), branch[-1][0]
            if name not in inside or times[branch] > times[inside[name]]:
                inside[name] = branch
    taken: set[Branch] = set()
    waiting: list[Branch] = [()]
    while waiting:
        branch = waiting.pop()
        taken.add(branch)
        waiting += ways.get(branch, {}).values()
    return [step for step in steps if branch_of(step) in taken]
