"""The plan of least memory, for who asks for less than any needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .memory import Usage
from .problem import Problem

Solve = Callable[[Mapping[int, int]], tuple[Usage | None, float]]
"""With some variables fixed, a plan whose values hold little, None where there is none; and bytes that no such plan goes below."""


def find_leanest(problem: Problem, seen: Usage, solve: Solve, limit: int, enough: float) -> tuple[Usage, float]:
    """The leanest plan found by branch and bound, `seen` to begin with, and bytes that no plan goes below: its own where it is the leanest.

    It ends after `limit` branches, or where a plan needs `enough` at most.
    """
    waiting: list[tuple[float, int, int, dict[int, int]]] = [(0.0, 0, 0, {})]
    for count in range(1, limit + 1):
        if not waiting or waiting[-1][0] >= seen.peak or seen.peak <= enough:
            break
        bound, _, _, fixed = waiting.pop()
        usage, least = solve(fixed)
        bound = max(bound, least)
        if usage is None or bound >= min(seen.peak, usage.peak):
            seen = seen if usage is None or seen.peak <= usage.peak else usage
            continue
        seen = seen if seen.peak <= usage.peak else usage
        v = _next(problem, usage, fixed)
        if v is not None:  # of equal bounds, what is fixed further is nearer to a plan
            waiting += [(bound, -len(fixed), -count, {**fixed, v: i}) for i in range(problem.sizes[v])]
            waiting.sort(key=lambda branch: (-branch[0], -branch[1], branch[2]))
    return seen, min([bound for bound, _, _, _ in waiting], default=seen.peak)


def _next(problem: Problem, usage: Usage, fixed: Mapping[int, int]) -> int | None:
    """The variable to branch on: the largest that is held at the peak, then any."""
    held = [buffer.value for buffer in usage.timelines[usage.worst].live()] if usage.worst else []
    first: Sequence[int] = [problem.number[value] for value in held if value in problem.number]
    return next((v for v in (*first, *range(len(problem.sizes))) if v not in fixed and problem.sizes[v] > 1), None)
