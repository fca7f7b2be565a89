"""Which transfers of a function go in one call: those alike that are ready when the first of them is needed.

Operator i of a function takes its operands at time 3i and gives its results at 3i + 2; what the function returns is taken after all.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from spmd.plan.steps import MADE, Bundle, Cause, Step, Transfer
from spmd.program.graph import Node, Value
from spmd.transfers.conversion import Move

FULL = 8.0
"""What a bundle sends takes at most so many latencies: company saves more than that nothing, and what waits for it takes memory."""
_END = 1 << 60


class Latencies(Protocol):
    """What a call takes however little it sends."""

    def latency(self, move: Move) -> float:
        """The part of the time of a transfer that the second of two in one call does not take."""
        ...


@dataclass(frozen=True)
class Single:
    """A conversion by one transfer: the value, where its steps begin and end in the list, and why it is there."""

    value: Value
    start: int
    stop: int
    cause: Cause


@dataclass(frozen=True)
class Waiting:
    """A transfer that need not run at once, from the time when it can to the time when something takes its result."""

    place: int
    """The place in the list of the function's steps."""
    ready: int
    needed: int
    alike: tuple[Any, ...]
    """What those in one call have in common."""
    moving: float
    """Its predicted time without latency."""
    most: float
    """The most of that in one bundle."""


def bundled(steps: list[Step], singles: Sequence[Single], starts: Sequence[int], nodes: Sequence[Node], prices: Latencies) -> list[Step]:
    """The steps with what goes in one call put together, each bundle where the first of it is needed: that saves latencies. Its members
    stand in the order in which they are made.

    `starts` says where the steps of each of the `nodes` begin, and those of the return.
    """
    if len(singles) < 2:
        return steps
    by_place = {one.start: one for one in singles}
    inserted: dict[int, list[Step]] = {}
    gone: set[int] = set()
    for bundle in bundles(_waiting(steps, singles, nodes, prices)):
        needed = bundle[0].needed
        at = starts[needed // 3 if needed < _END else -1]
        order = sorted(bundle, key=lambda w: (w.ready, w.place))
        members = [steps[one.start : one.stop] for one in (by_place[w.place] for w in order)]
        gone.update(i for w in bundle for i in range(w.place, by_place[w.place].stop))
        inserted.setdefault(at, []).extend(_as_one(members, prices))
    made: list[Step] = []
    for i, step in enumerate(steps):
        made += inserted.get(i, ())
        if i not in gone:
            made.append(step)
    return made


def _as_one(members: Sequence[Sequence[Step]], prices: Latencies) -> list[Step]:
    """What each does before it sends, one call, and what each does after that."""
    before: list[Step] = []
    sent: list[Transfer] = []
    after: list[Step] = []
    for steps in members:
        (at,) = [i for i, step in enumerate(steps) if isinstance(step, Transfer)]
        transfer = steps[at]
        assert isinstance(transfer, Transfer)
        saved = min(prices.latency(transfer.move), transfer.seconds) if sent else 0.0
        before += steps[:at]
        sent.append(replace(transfer, seconds=transfer.seconds - saved) if saved else transfer)
        after += steps[at + 1 :]
    return [*before, Bundle(tuple(sent)), *after]


def _waiting(steps: Sequence[Step], singles: Sequence[Single], nodes: Sequence[Node], prices: Latencies) -> list[Waiting]:
    """The transfers that could wait for others."""
    made, used = dict.fromkeys((one.value for one in singles), -1), dict[Value, int]()
    for i, node in enumerate(nodes):
        for value in node.inputs:
            if value in made:
                used.setdefault(value, 3 * i)
        made.update((value, 3 * i + 2) for value in node.outputs if value in made)
    converted_when_made = {one.value for one in singles if one.cause.role == MADE}
    found: list[Waiting] = []
    for one in singles:
        ready = made[one.value]
        if one.cause.role != MADE and one.value in converted_when_made:
            continue  # it goes on from what may have to wait itself
        taken = 3 * one.cause.at if one.cause.at >= 0 else _END
        needed = used.get(one.value, _END) if one.cause.role == MADE else taken
        (sent,) = [step for step in steps[one.start : one.stop] if isinstance(step, Transfer)]
        if sent.move.kind == "permute":
            continue
        latency = min(prices.latency(sent.move), sent.seconds)
        move = sent.move
        alike = (move.kind, move.axis, move.reduce, move.dim, move.to_dim, one.value.dtype)
        found.append(Waiting(one.start, ready, needed, alike, sent.seconds - latency, FULL * latency))
    return found


def bundles(waiting: Sequence[Waiting]) -> list[list[Waiting]]:
    """Those that go together, each bundle at the time when its first is needed; with room enough they are the fewest calls possible.

    The greedy cover of intervals by points: no later time would do for the first, and who is ready by then gains nothing by waiting. Where
    there is too little room, what does not fit is left for later calls; of those needed at one time the largest comes first.
    """
    groups: dict[tuple[Any, ...], list[Waiting]] = {}
    for one in waiting:
        groups.setdefault(one.alike, []).append(one)
    made: list[list[Waiting]] = []
    for group in groups.values():
        coming = sorted(group, key=lambda w: w.ready, reverse=True)
        ready: list[tuple[int, float, int, Waiting]] = []
        for first in sorted(group, key=_urgency):
            while coming and coming[-1].ready <= first.needed:
                one = coming.pop()
                bisect.insort(ready, (*_urgency(one), one))
            if not ready or ready[0][-1] is not first:
                continue  # it went with an earlier one
            bundle: list[Waiting] = []
            left: list[tuple[int, float, int, Waiting]] = []
            room = first.most
            for entry in ready:
                one = entry[-1]
                if one is first or one.moving <= room:
                    bundle.append(one)
                    room -= one.moving
                else:
                    left.append(entry)
            ready = left
            if len(bundle) > 1:
                made.append(bundle)
    return sorted(made, key=lambda bundle: (bundle[0].needed, bundle[0].place))


def _urgency(one: Waiting) -> tuple[int, float, int]:
    """In what order places in a bundle are given away: when it is needed, and the largest first."""
    return one.needed, -one.moving, one.place
