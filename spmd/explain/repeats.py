"""Layers that are alike: where a sequence repeats itself."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_HIDDEN = 4
"""Items that folding must hide for it to be worth it."""


@dataclass(frozen=True)
class Repeat:
    """Items from `start` on that are `count` times the same `period` of them."""

    start: int
    period: int
    count: int


def repeats(items: Sequence[Hashable], least: int = LEAST_HIDDEN) -> list[Repeat]:
    """The longest repetition that hides `least` items or more, then those before and after it, in order."""
    numbers: dict[Hashable, int] = {}
    sequence = np.array([numbers.setdefault(item, len(numbers)) for item in items], dtype=np.int64)
    found: list[Repeat] = []
    waiting = [(0, len(items))]
    while waiting:
        start, stop = waiting.pop()
        best = _longest(sequence[start:stop], least)
        if best is not None:
            here = Repeat(start + best.start, best.period, best.count)
            found.append(here)
            waiting += [(start, here.start), (here.start + here.period * here.count, stop)]
    return sorted(found, key=lambda r: r.start)


def _longest(sequence: NDArray[np.int64], least: int) -> Repeat | None:
    best, covered = None, 0
    for period in range(1, len(sequence) // 2 + 1):
        equal = np.concatenate(([False], sequence[:-period] == sequence[period:], [False]))
        if equal.sum() + period <= covered:
            continue
        edges = np.flatnonzero(equal[1:] != equal[:-1])
        if not len(edges):
            continue
        lengths = edges[1::2] - edges[::2]
        at = int(lengths.argmax())
        count = (int(lengths[at]) + period) // period
        if (count - 1) * period >= least and count * period > covered:
            best, covered = Repeat(int(edges[2 * at]), period, count), count * period
    return best
