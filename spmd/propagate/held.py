"""What a function holds while some of its values are made again, told from a plan in which they are not, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spmd.costs.fusion import fused
from spmd.ir.trees import leaves
from spmd.plan.steps import TAKEN, Compute, Step, computes, moves, seconds
from spmd.program.again import can_be_made_again
from spmd.program.graph import Function, Node, Value
from spmd.program.storage import VIEWS
from spmd.realize.timeline import RESIDENT, Buffer

from .memory import Usage

Late = Mapping[Node, int]
"""An operator that runs again, and the number of that from which on what it makes anew is read."""


@dataclass(frozen=True)
class Peak:
    """The most bytes, while which operator runs, and the seconds of what runs again."""

    bytes: int
    at: int
    seconds: float


class Holding:
    """One function under a plan: its operators with their times, its values with their bytes."""

    def __init__(self, usage: Usage, function: Function, steps: Sequence[Step]) -> None:
        self.function, self.nodes = function, function.nodes
        self._cost, self._kept = usage.problem.cost, usage.timelines[function.name].kept
        self.makers, self.at = function.makers, {node: i for i, node in enumerate(self.nodes)}
        self.can = can_be_made_again(function)
        self._unwritten, self._loops = fused(function), usage.timelines[function.name].loops
        runs: list[Compute] = computes(steps)
        self.seconds = [run.seconds for run in runs]
        for move in moves(steps):
            if move.cause.role == TAKEN:
                self.seconds[move.cause.at] += seconds(move)
        self.bytes: dict[Value, int] = {v: self._bytes(v) for node in self.nodes for v in node.outputs if v.is_tensor}
        self._given = [v for tree in function.params for v in leaves(tree) if v.is_tensor and v.role not in RESIDENT]
        self._more = usage.timelines[function.name].peak - self._simulated({}).bytes

    def held(self, late: Late) -> Peak:
        """What is held where these operators run again. What conversions hold is taken to be what it is without."""
        found = self._simulated(late)
        return Peak(found.bytes + self._more, found.at, found.seconds)

    def _simulated(self, late: Late) -> Peak:
        end = len(self.nodes)
        buffers: list[Buffer] = []
        own: dict[tuple[Value, bool], Buffer] = {}
        now, order, taken = 0, list[int](), 0.0
        passed: list[Buffer] = []

        def is_late(value: Value, at: int) -> bool:
            node = self.makers.get(value)
            return node is not None and at >= late.get(node, end + 1)

        def run(node: Node, at: int, again: bool) -> None:
            nonlocal now
            read: list[Buffer] = []
            for value in node.inputs:
                held = own.get((value, is_late(value, at)))
                if held is not None:
                    held.until(now)
                    read.append(held)
            if node.op == "argument":
                passed.extend(read)
            elif node.called is not None:  # it holds what it is passed, and what its turns hold
                buffers.extend(Buffer(v, self._loops.get(node.called.name, 0), now, now) for v in node.called.returns[:1])
                for held in passed:
                    held.until(now)
                passed.clear()
            for value in node.outputs if node.op != "argument" else ():
                if not value.is_tensor:
                    continue
                if (value, again) in own:
                    own[value, again].until(now)
                elif value in self._unwritten:
                    own[value, again] = Buffer(value, 0, now, now, tuple(read))
                elif node.op in VIEWS and read:
                    own[value, again] = read[-1]
                else:
                    own[value, again] = Buffer(value, self.bytes[value], now, now)
                    buffers.append(own[value, again])
            order.append(at)
            now += 1

        done: set[Node] = set()
        for at, node in enumerate(self.nodes):
            waiting = [self.makers[v] for v in node.inputs if is_late(v, at)]
            while waiting:
                needs = [self.makers[v] for v in waiting[-1].inputs if is_late(v, at) and self.makers[v] not in done]
                if waiting[-1] in done:
                    waiting.pop()
                elif needs:
                    waiting += needs
                else:
                    again = waiting.pop()
                    done.add(again)
                    taken += self.seconds[self.at[again]]
                    run(again, at, True)
            run(node, at, False)
        order.append(end)
        for value in self.function.returns:
            if (value, False) in own:
                own[value, False].until(now)
        change = [0] * (now + 2)
        for held in buffers:
            change[held.first] += held.bytes
            change[held.last + 1] -= held.bytes
        total, peak, worst = sum(self._bytes(v) for v in self._given), 0, 0
        for i, step in enumerate(change[:-1]):
            total += step
            if total > peak:
                peak, worst = total, order[i]
        return Peak(peak, worst, taken)

    def _bytes(self, value: Value) -> int:
        cost = self._cost
        return cost.local_bytes(cost.shape(value), cost.item_bytes(value), self._kept[value])
