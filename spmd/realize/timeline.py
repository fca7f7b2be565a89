"""The activations of a worker, read off the steps: each from when it is made until it is last read.

They are counted operator by operator, without what compilers fuse away (`costs.fusion`). What a kernel takes and makes, and what the moves
before and after it take and make, counts as there at once; what is freed early or written in place only makes it less. Buffers inside an
operator, and those between the parts of a move, are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from spmd.costs.cost import Cost
from spmd.costs.fusion import fused
from spmd.costs.in_place import written_in_place
from spmd.ir.trees import leaves
from spmd.placement.sharding import Sharding
from spmd.plan.steps import MADE, Bundle, Compute, Mask, Return, Step, Transfer, computes, moves
from spmd.program.graph import Function, Node, Value
from spmd.program.storage import VIEWS

RESIDENT = ("weight", "constant")
"""Roles of values that are held all the time."""


@dataclass(slots=True)
class Buffer:
    """A buffer, from one operator to another."""

    value: Value
    bytes: int
    first: int
    last: int
    made_of: tuple[Buffer, ...] = ()
    """What a buffer that is never written is made of whenever it is read."""

    def until(self, at: int) -> None:
        """Hold it for operator `at`, too."""
        if at > self.last:
            self.last = at
        for held in self.made_of:
            held.until(at)


class Timeline:
    """The activations of one function: its arguments but for weights, its temporaries, and converted copies of any."""

    def __init__(
        self,
        cost: Cost,
        function: Function,
        steps: Sequence[Step],
        kept: Mapping[Value, Sharding],
        loops: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`loops` says what is held by those that are called, besides what they are passed."""
        self.cost, self.function, self.loops = cost, function, loops
        self._end, self.kept = len(function.nodes), kept
        self._own: dict[tuple[Value, Sharding], Buffer] = {}
        self._views: dict[Value, Value] = {}
        self._passed: list[Buffer] = []
        self._runs = dict(zip(function.nodes, computes(steps), strict=True))
        self._fused = fused(function, self._as_kept)
        self._joined = {v for node in function.nodes if node.joined is not None for v in node.outputs}
        """What both branches of an If make."""
        self.buffers: list[Buffer] = []
        for value in (v for tree in function.params for v in leaves(tree)):
            if value.is_tensor and value.role not in RESIDENT and not function.is_loop:
                self._own[value, kept[value]] = held = self._hold(value, kept[value], 0)
                held.last = self._end
        self._read_steps(steps)

    @cached_property
    def totals(self) -> list[int]:
        """The bytes while each operator runs, and at the end."""
        change = [0] * (self._end + 2)
        for held in self.buffers:
            change[held.first] += held.bytes
            change[held.last + 1] -= held.bytes
        now, totals = 0, list[int]()
        for step in change[:-1]:
            now += step
            totals.append(now)
        return totals

    @cached_property
    def peak(self) -> int:
        """The most bytes at any time."""
        return max(self.totals)

    def live(self) -> list[Buffer]:
        """What is held at the peak, the largest first."""
        at = self.totals.index(self.peak)
        return sorted((h for h in self.buffers if h.bytes and h.first <= at <= h.last), key=lambda h: -h.bytes)

    def moment(self) -> list[Value]:
        """Values that any plan holds when this one holds the most, each in memory of its own."""
        at, spans = self.totals.index(self.peak), self._spans()
        there = {v for v, (first, last) in spans.items() if first <= at <= last} - fused(self.function)
        return [v for v in spans if v in there and not any(u in there or u.role in RESIDENT for u in self._viewed(v))]

    def _viewed(self, value: Value) -> Iterator[Value]:
        """What a value may be a view of."""
        while value in self._views:
            value = self._views[value]
            yield value

    def _spans(self) -> dict[Value, tuple[int, int]]:
        """When each value is there, whatever its sharding."""
        spans = {v: (0, self._end) for tree in self.function.params for v in leaves(tree)}
        for at, node in enumerate(self.function.nodes):
            for value in (*node.inputs, *node.outputs):
                spans[value] = (spans.get(value, (at, at))[0], max(at, spans.get(value, (at, at))[1]))
            if node.op in VIEWS and node.inputs and node.outputs:
                self._views.setdefault(node.outputs[0], node.inputs[0])
        for value, _, _ in self.function.at_end:
            spans[value] = (spans.get(value, (self._end, 0))[0], self._end)
        return {v: span for v, span in spans.items() if v.is_tensor and v.role not in RESIDENT}

    def _read_steps(self, steps: Sequence[Step]) -> None:
        named = self.function.named
        at = 0
        for step in steps:
            if isinstance(step, Compute):
                self._compute(self.function.nodes[at], step, at)
                at += 1
            elif isinstance(step, Mask):
                self.buffers += [Buffer(named[step.value], step.bytes, at, at)] if step.bytes else []
            elif isinstance(step, Return):
                taken = written_in_place(self.function) if self.function.donated else frozenset()
                for number, (name, sharding) in enumerate(zip(step.operands, step.shardings, strict=True)):
                    if named[name].is_tensor:
                        held = self._read(named[name], sharding, at)
                        held.bytes = 0 if number in taken else held.bytes
            else:
                for move in moves((step,)):
                    is_late = not isinstance(step, Bundle) and move.cause.role == MADE
                    if isinstance(move, Transfer) or move.kind == "slice":
                        self._move(named[move.value], move.move.source, move.move.target, at - is_late)

    def _compute(self, node: Node, step: Compute, at: int) -> None:
        if node.called is not None:
            self.buffers += [Buffer(v, self.loops.get(node.called.name, 0), at, at) for v in node.called.returns[:1]]
            for held in self._passed:
                held.until(at)
            self._passed = []
        if node.op == "argument":  # the loop is passed what is there
            self._passed.append(self._read(node.inputs[0], step.inputs[0], at))
            return
        read = [self._read(v, sharding, at) for v, sharding in zip(node.inputs, step.inputs, strict=True) if v.is_tensor]
        for value, made in zip(node.outputs, step.outputs, strict=True):
            if not value.is_tensor:
                continue
            if (value, made) in self._own:  # the other branch made it, too
                self._own[value, made].until(at)
            elif value in self._fused:
                self._own[value, made] = Buffer(value, 0, at, at, tuple(read))
            elif read and node.op in VIEWS and not read[-1].made_of and read[-1].bytes == self._bytes(value, made):
                self._own[value, made] = read[-1]
            else:
                self._own[value, made] = self._hold(value, made, at)

    def _read(self, value: Value, sharding: Sharding, at: int) -> Buffer:
        """A value is read by operator `at`; a weight as it lies there is in no buffer of these."""
        own = self._own.get((value, sharding))
        if own is None:
            return Buffer(value, self._bytes(value, sharding), at, at)
        own.until(at)
        return own

    def _move(self, value: Value, source: Sharding, target: Sharding, at: int) -> None:
        self._read(value, source, at)
        if value in self._joined and (value, target) in self._own:
            self._own[value, target].until(at)
        else:
            self._own[value, target] = self._hold(value, target, at)

    def _hold(self, value: Value, sharding: Sharding, at: int) -> Buffer:
        held = Buffer(value, self._bytes(value, sharding), at, at)
        self.buffers.append(held)
        return held

    def _as_kept(self, node: Node, value: Value) -> bool:
        """Whether an operator takes or makes the value as it is kept, and is the same operator on a shard."""
        runs, kept = self._runs[node], self.kept[value]
        if any(factor in node.rule.forms for factor, _ in runs.splits):
            return False
        pairs = zip((*node.inputs, *node.outputs), (*runs.inputs, *runs.outputs), strict=True)
        return all(sharding is kept or sharding == kept for v, sharding in pairs if v is value)

    def _bytes(self, value: Value, sharding: Sharding) -> int:
        return self.cost.local_bytes(self.cost.shape(value), self.cost.item_bytes(value), sharding)
