"""The predicted time of a list of steps."""

from __future__ import annotations

from collections.abc import Iterable

from spmd.plan.branches import slowest_way
from spmd.plan.steps import Step, seconds


def predicted(steps: Iterable[Step]) -> float:
    """All steps one after another; of two branches, the slower."""
    return sum(map(seconds, slowest_way(steps)), 0.0)
