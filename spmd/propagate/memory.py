"""What a worker holds under a plan: weights, KV caches, and activations from when they are made until they are last read.

Activations are counted operator by operator, without what compilers fuse away (`fusion.py`). What a kernel takes and makes, and what
conversions before and after it take and make, counts as there at once; what is freed early or written in place only makes it less. Buffers
inside an operator are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx

from spmd.costs.fusion import VIEWS, fused
from spmd.costs.kv_bytes import create_bytes
from spmd.ir.trees import leaves
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Memory
from spmd.program.graph import Function, Node, Value

from .problem import Problem

RESIDENT = ("weight", "constant")
"""Roles of values that are held all the time."""


@dataclass
class Held:
    """A buffer, from one operator to another."""

    value: Value
    bytes: int
    first: int
    last: int
    made_of: tuple[Held, ...] = ()
    """Of what is never written: what it is made of whenever it is read."""

    def until(self, at: int) -> None:
        """Hold it for operator `at`, too."""
        self.last = max(self.last, at)
        for held in self.made_of:
            held.until(at)


class Timeline:
    """The activations of one function: its arguments but for weights, its temporaries, and converted copies of any."""

    def __init__(self, problem: Problem, choice: Mapping[int, int], function: Function, kept: Mapping[Value, Sharding]) -> None:
        self.problem, self.function = problem, function
        self._choice, self._end, self._kept = choice, len(function.nodes), kept
        self._own: dict[Value, Held] = {}
        """Values as they are kept."""
        self._copies: dict[tuple[Value, Sharding], Held] = {}
        self._views: dict[Value, Value] = {}
        self._fused = fused(function, self._as_kept)
        self.buffers: list[Held] = []
        for value in (v for tree in function.params for v in leaves(tree)):
            if value.is_tensor and value.role not in RESIDENT:
                self._own[value] = held = self._hold(value, kept[value], 0)
                held.last = self._end
        self._walk()

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

    def live(self) -> list[Held]:
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

    def _hold(self, value: Value, sharding: Sharding, at: int) -> Held:
        held = Held(value, self._bytes(value, sharding), at, at)
        self.buffers.append(held)
        return held

    def _read(self, value: Value, wanted: Sharding, at: int) -> Held:
        """`value` is read as `wanted` by operator `at`; a weight as it lies there is in no buffer of these."""
        kept, own = self._kept[value], self._own.get(value)
        if own is not None:
            own.until(at)
        if wanted is kept or wanted == kept:
            return own or Held(value, self._bytes(value, kept), at, at)
        held = self._copies.get((value, wanted))
        if held is None:
            for step in (self.problem.cost.steps(value, kept, wanted) or ())[1:]:
                self._hold(value, step.source, at)
            held = self._copies[value, wanted] = self._hold(value, wanted, at)
        held.until(at)
        return held

    def _walk(self) -> None:
        for at, node in enumerate(self.function.nodes):
            strategy = self.problem.strategy(node, self._choice)
            read = [self._read(v, wanted, at) for v, wanted in zip(node.inputs, strategy.inputs, strict=True) if v.is_tensor]
            for value, made in zip(node.outputs, strategy.outputs, strict=True):
                if not value.is_tensor:
                    continue
                if value in self._own:  # the other branch made it, too
                    self._own[value].until(at)
                    continue
                if value in self._fused:
                    self._own[value] = Held(value, 0, at, at, tuple(read))
                    continue
                kept = self._kept[value]
                if made is not kept and made != kept:
                    for step in self.problem.cost.steps(value, made, kept) or ():
                        self._hold(value, step.source, at)
                elif read and node.op in VIEWS and not read[-1].made_of and read[-1].bytes == self._bytes(value, kept):
                    self._own[value] = read[-1]
                    continue
                self._own[value] = self._hold(value, kept, at)
        for value, wanted, _ in self.function.at_end:
            if value.is_tensor:
                end = self._kept[value] if wanted is None else self.problem.at_end(value, wanted, self._choice)
                self._read(value, end, self._end)

    def _as_kept(self, node: Node, value: Value) -> bool:
        """Whether an operator takes or makes the value as it is kept, and is the same operator on a shard."""
        strategy, kept = self.problem.strategy(node, self._choice), self._kept[value]
        if any(factor in node.rule.forms for factor, _ in strategy.splits):
            return False
        pairs = zip((*node.inputs, *node.outputs), (*strategy.inputs, *strategy.outputs), strict=True)
        return all(sharding is kept or sharding == kept for v, sharding in pairs if v is value)

    def _bytes(self, value: Value, sharding: Sharding) -> int:
        cost = self.problem.cost
        return cost.local_bytes(cost.shape(value), cost.item_bytes(value), sharding)


class Usage:
    """The memory of a worker under a solution. Weights and caches of all functions stay; activations are those of the one that runs."""

    def __init__(self, problem: Problem, choice: Mapping[int, int]) -> None:
        self.problem = problem
        self.caches, self.unknown = cache_sizes(problem)
        self.residents: dict[Value, int] = {}
        kept = {value: problem.sharding(value, choice) for value in problem.values}
        for value in problem.values:
            if value in self.caches or (value.is_tensor and value.role in RESIDENT):
                self.residents[value] = resident_bytes(problem, value, kept[value], self.caches)
        self.timelines = {name: Timeline(problem, choice, function, kept) for name, function in problem.graph.functions.items()}

    @cached_property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(n for v, n in self.residents.items() if v.is_tensor)

    @cached_property
    def assumed(self) -> tuple[str, ...]:
        """The symbolic sizes of weights that nobody gave."""
        dims = [dim for v in self.residents if v.is_tensor for dim in v.dims if not isinstance(dim, int)]
        names = [var.name for dim in dims for var in tirx.analysis.undefined_vars(dim)]
        return tuple(dict.fromkeys(name for name in names if name not in self.problem.cost.sizes))

    @cached_property
    def cache(self) -> int:
        """Bytes of the KV caches whose size is known."""
        return sum(n for v, n in self.residents.items() if not v.is_tensor)

    @cached_property
    def worst(self) -> str:
        """The function that holds the most."""
        return max(self.timelines, key=lambda name: self.timelines[name].peak, default="")

    @property
    def peak(self) -> int:
        """The most bytes in any function."""
        return self.weights + self.cache + (self.timelines[self.worst].peak if self.worst else 0)

    def of(self, function: str) -> Memory:
        """What is held while a function runs."""
        unknown = tuple(v.name for v in self.unknown)
        return Memory(self.weights, self.cache, self.timelines[function].peak, unknown, self.assumed)


def resident_bytes(problem: Problem, value: Value, sharding: Sharding, caches: Mapping[Value, int]) -> int:
    """The bytes that a worker holds of a weight or a cache."""
    cost = problem.cost
    if value.is_tensor:
        return cost.local_bytes(cost.shape(value), cost.item_bytes(value), sharding)
    total = caches[value]
    for split in sharding.dims:
        total = total if split is None else -(-total * split.local_size(cost.mesh) // split.size)
    return total


def cache_sizes(problem: Problem) -> tuple[dict[Value, int], list[Value]]:
    """The bytes of each whole KV cache, the largest where several calls make it; and the objects of which they are not known."""
    found: dict[Value, int] = {}
    for function in problem.graph.functions.values():
        for node in function.nodes:
            if node.outputs and not node.outputs[0].is_tensor:
                size = create_bytes(node, problem.cost)
                if size is not None:
                    found[node.outputs[0]] = max(size, found.get(node.outputs[0], 0))
    return found, [v for v in problem.values if v.kind == "object" and v not in found]
