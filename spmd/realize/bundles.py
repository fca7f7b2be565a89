"""Which collectives of a function go in one call: those alike that are ready when the first of them is needed."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FULL = 8.0
"""What a bundle sends takes at most so many latencies: company saves more than that nothing, and what waits for it takes memory."""


@dataclass(frozen=True)
class Waiting:
    """A collective that need not run at once, from the time when it can to the time when something takes its result."""

    place: int
    """In the list of the function's collectives."""
    ready: int
    needed: int
    alike: tuple[Any, ...]
    """What those in one call have in common."""
    moving: float
    """Its predicted time without latency."""
    most: float
    """The most of that in one bundle."""


def bundles(waiting: Sequence[Waiting]) -> list[list[Waiting]]:
    """Those that go together, each bundle at the time when its first is needed; with room enough they are the fewest calls possible.

    The greedy cover of intervals by points: no later time would do for the first, and who is ready by then gains nothing by waiting.
    """
    groups: dict[tuple[Any, ...], list[Waiting]] = {}
    for one in waiting:
        groups.setdefault(one.alike, []).append(one)
    made: list[list[Waiting]] = []
    for group in groups.values():
        coming = sorted(group, key=lambda w: w.ready, reverse=True)
        ready: list[tuple[int, int, Waiting]] = []
        gone: set[int] = set()
        for first in sorted(group, key=lambda w: (w.needed, w.place)):
            if first.place in gone:
                continue
            while coming and coming[-1].ready <= first.needed:
                one = coming.pop()
                heapq.heappush(ready, (one.needed, one.place, one))
            bundle: list[Waiting] = []
            room = first.most
            while ready and (not bundle or ready[0][2].moving <= room):
                bundle.append(heapq.heappop(ready)[2])
                room -= bundle[-1].moving
            gone.update(one.place for one in bundle)
            if len(bundle) > 1:
                made.append(bundle)
    return sorted(made, key=lambda bundle: (bundle[0].needed, bundle[0].place))
