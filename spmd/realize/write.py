"""From a decision to the list of steps of each function: which conversion happens when is said here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tvm

from spmd.costs.fusion import mask_goes_along
from spmd.errors import ShardingError
from spmd.ir.trees import leaves
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.steps import MADE, RETURNED, TAKEN, Cause, Compute, Exchange, Mask, Reorder, Return, Step, Transfer
from spmd.program.graph import Branch, Function, Node, Value
from spmd.rules.strategy import Strategy
from spmd.transfers.conversion import Move
from spmd.transfers.local import brings_zeros, is_packed, is_unpacked

from .bundles import Single, bundled
from .padding import gives_zeros, masked

Ways = Callable[[Value, Sharding, Sharding, bool], Sequence[Move] | None]
"""The moves that take a value from one sharding to another, with the last argument whether they may gather; None where there is no way.

Those of a plan that was given may begin wherever it holds the value, and may end before how it is kept, where nothing takes it so.
"""


@dataclass(frozen=True)
class End:
    """How a leaf of a result is returned, None as it is kept; what asks for that, and whether it may be gathered for it."""

    sharding: Sharding | None = None
    why: str = ""
    gather: bool = True


@dataclass(frozen=True)
class Decided:
    """What was decided of a graph, wherever it comes from."""

    mesh: Mesh
    kept: Mapping[Value, Sharding]
    """How each value is kept."""
    runs: Callable[[Node], Strategy]
    """How each operator runs."""
    returned: Callable[[Function], Sequence[End]]
    """How a function returns each leaf of its result."""
    ways: Ways


class Prices(Protocol):
    """What steps take."""

    def compute(self, node: Node, runs: Strategy) -> tuple[float, tuple[Exchange, ...]]:
        """The time of an operator, and the collectives inside it."""
        ...

    def move(self, value: Value, move: Move) -> tuple[int, tuple[float, float, float]]:
        """The bytes that each worker brings to a move; the times of packing, of the move itself and of unpacking."""
        ...

    def mask(self, value: Value, sharding: Sharding) -> tuple[int, float]:
        """The bytes of a copy of a value whose padding is cleared, and the time to write it."""
        ...

    def latency(self, move: Move) -> float:
        """The part of the time of a collective that the second of two in one call does not take."""
        ...


_FREE = (0, (0.0, 0.0, 0.0))


def realize(function: Function, decided: Decided, prices: Prices | None = None) -> list[Step]:
    """The steps of a function. Without `prices` nothing takes any time, and each collective goes in a call of its own.

    What is sent to where a value is kept, and taken by nobody there, shows when all are written: then they are written without it.
    """
    writer = _Writer(function, decided, prices, {})
    steps = writer.run()
    needed = writer.needed()
    return _Writer(function, decided, prices, needed).run() if needed else steps


class _Writer:
    """Walks the operators in order, and knows what is held where: a conversion is made once, and what a branch converts stays in it."""

    def __init__(self, function: Function, decided: Decided, prices: Prices | None, needed: Mapping[Value, int]) -> None:
        self.function, self.decided, self.prices, self.mesh, self._needed = function, decided, prices, decided.mesh, needed
        self.steps: list[Step] = []
        self._starts: list[int] = []
        """Where the steps of each operator begin, and those of the return."""
        self._singles: list[Single] = []
        self._held: dict[Branch, dict[tuple[Value, Sharding], bool]] = {(): {}}
        """Branch -> what it makes, and whether its padding is known to be zero; arguments and constants are zero there."""
        self._padded: dict[int, bool] = {}
        self._names: dict[Value, str] = {}
        self._to_kept: dict[Value, Sequence[Move]] = {}
        """The moves by which what an operator makes becomes what is kept."""
        self._taken: set[tuple[Value, Sharding]] = set()
        """What operators, conversions and the return take."""

    def run(self) -> list[Step]:
        """All steps, the return last."""
        for at, node in enumerate(self.function.nodes):
            self._starts.append(len(self.steps))
            self._operator(node, at)
        self._starts.append(len(self.steps))
        self._return()
        if self.prices is None or any(node.branch for node in self.function.nodes):
            return self.steps
        return bundled(self.steps, self._singles, self._starts, self.function.nodes, self.prices)

    def needed(self) -> dict[Value, int]:
        """How many of the moves to where a value is kept something goes on from, where not all: what takes it may start nearer."""
        found: dict[Value, int] = {}
        for value, way in self._to_kept.items():
            if (value, self.decided.kept[value]) not in self._taken:
                last = max((i for i, move in enumerate(way, 1) if (value, move.target) in self._taken), default=0)
                if last < len(way):  # the way of a plan that was given is cut short already
                    found[value] = last
        return found

    def _operator(self, node: Node, at: int) -> None:
        runs, kept = self.decided.runs(node), self.decided.kept
        taken = [(v, s) for v, s in zip(node.inputs, runs.inputs, strict=True) if s is not kept[v] and s != kept[v] and v.is_tensor]
        made = [(v, s) for v, s in zip(node.outputs, runs.outputs, strict=True) if s is not kept[v] and s != kept[v] and v.is_tensor]
        for value, sharding in dict.fromkeys(taken):
            if value.memory or self._is_zero(value, sharding, node.branch) is None:  # what is written is another value each time
                self._convert(value, kept[value], sharding, node.branch, Cause(TAKEN, at))
        for value, sharding in zip(node.inputs, runs.inputs, strict=True):
            if value in self._to_kept:
                self._take(value, sharding, node.branch)
        zero = self._masked(node, runs) if self._is_padded(runs) else True
        self._compute(node, runs, bool(taken or made))
        for value, sharding in _made(node, runs, kept):
            if value.is_tensor:
                self._hold(value, sharding, node.branch, zero or not sharding.is_padded(self.mesh))
        for value, sharding in made:
            self._convert(value, sharding, kept[value], node.branch, Cause(MADE, at))
        if node.joined is not None:
            self._join(node)

    def _compute(self, node: Node, runs: Strategy, is_converted: bool) -> None:
        seconds, exchanges = (0.0, ()) if self.prices is None else self.prices.compute(node, runs)
        decided = (runs.splits, runs.inputs, runs.outputs, runs.partial_through, node.no_rule)
        named = (tuple([self._name(v) for v in node.inputs]), tuple([self._name(v) for v in node.outputs]))
        span = _span(node) if is_converted or exchanges else ""
        self.steps.append(Compute(node.op, node.name, *decided, *named, seconds, exchanges, node.branch, span))

    def _join(self, node: Node) -> None:
        """Both branches give a value, and it is there after them: with zeros in its padding where both have them there."""
        outside = self._held.setdefault(node.branch[:-1], {})
        for value in node.outputs:
            key = (value, self.decided.kept[value])
            outside[key] = outside.get(key, True) and bool(self._is_zero(*key, node.branch))

    def _return(self) -> None:
        kept, ends = self.decided.kept, self.decided.returned(self.function)
        assert self.function.result is not None
        operands: list[str] = []
        shardings: list[Sharding] = []
        masks: list[Mask] = []
        converted: set[tuple[Value, Sharding]] = set()
        for value, end in zip(leaves(self.function.result), ends, strict=True):
            if value.kind == "other":
                continue
            sharding = kept[value] if end.sharding is None or not value.is_tensor else end.sharding
            fresh = value.memory and (value, sharding) not in converted
            if sharding != kept[value] and (fresh or self._is_zero(value, sharding, ()) is None):
                converted.add((value, sharding))
                self._convert(value, kept[value], sharding, (), Cause(RETURNED, why=end.why), end.gather)
            if value.is_tensor:
                self._take(value, sharding, ())
            # A result that stays on the workers may come back as an argument, whose padding counts as zero.
            if value.is_tensor and sharding.is_padded(self.mesh) and not self._is_zero(value, sharding, ()):
                masks.append(self._mask(None, value, sharding, len(operands)))
            operands.append(self._name(value))
            shardings.append(sharding)
        self.steps += [*masks, Return(tuple(operands), tuple(shardings))]

    def _masked(self, node: Node, runs: Strategy) -> bool:
        """Write the masks that an operator needs; whether what it makes has zeros in its padding."""
        pairs = zip(node.inputs, runs.inputs, strict=True)
        zero = [not v.is_tensor or bool(self._is_zero(v, s, node.branch)) for v, s in pairs]
        for i in masked(node, runs, zero, self.mesh):
            self.steps.append(self._mask(node, node.inputs[i], runs.inputs[i], i))
            zero[i] = node.rule.reduce == "sum"
        return gives_zeros(node, runs, zero, self.mesh)

    def _mask(self, node: Node | None, value: Value, sharding: Sharding, operand: int) -> Mask:
        reduce, branch = ("sum", ()) if node is None else (node.rule.reduce or "sum", node.branch)
        maker = self.function.makers.get(value)
        as_made = maker is not None and self.decided.kept[value] == sharding in self.decided.runs(maker).outputs
        free = self.prices is None or mask_goes_along(self.function, node, value, as_made)
        price = (0, 0.0) if self.prices is None or free else self.prices.mask(value, sharding)
        return Mask(self._name(value), sharding, operand, reduce, branch, *price)

    def _convert(self, value: Value, source: Sharding, target: Sharding, branch: Branch, cause: Cause, gather: bool = True) -> None:
        """Write the moves that take a value from one sharding to another, from where a move comes by that is made already."""
        found = self.decided.ways(value, source, target, gather)
        if cause.role == MADE and not branch and not value.memory:
            found = found if not found or value not in self._needed else found[: self._needed[value]] or None
            self._to_kept[value] = found or ()
            if found is None:
                return  # nothing may take it so
        if found is None:
            where = f"{self.function.name}: {value.name!r}"
            raise ShardingError(where, f"there is no way from {source} to {target}", "Make a new plan with spmd.plan().")
        # What is just made is nowhere yet, and what is written in place is another value each time.
        done = 0 if cause.role == MADE or value.memory else self._done(value, found, branch)
        origin = found[done - 1].target if done else found[0].source if found else source
        zero = self._take(value, origin, branch)
        start, sent = len(self.steps), 0
        for move in found[done:]:
            for step in self._parts(value, move, branch, cause):
                sent += isinstance(step, Transfer)
                self.steps.append(step)
            zero = zero or brings_zeros(move, self.mesh)
            self._hold(value, move.target, branch, zero)
        if not found:  # one placement, written in two ways
            self._hold(value, target, branch, zero)
        if sent == 1 and origin == source and not value.memory:
            self._singles.append(Single(value, start, len(self.steps), cause))

    def _take(self, value: Value, sharding: Sharding, branch: Branch) -> bool:
        """Note what is taken; whether its padding is zero. Raises `ShardingError` where nothing holds the value so: the ways of a plan that
        was given may lack one.
        """
        zero = self._is_zero(value, sharding, branch)
        if zero is None:
            where = f"plan for {self.function.name!r}: {value.name!r}"
            what = f"its steps do not say how it comes to be {sharding}, which follows from its decisions"
            raise ShardingError(where, what, "Plan this module with spmd.plan().")
        self._taken.add((value, sharding))
        return zero

    def _done(self, value: Value, way: Sequence[Move], branch: Branch) -> int:
        """How many moves of a way need not be made, as other conversions came by its placements."""
        return max((i for i, move in enumerate(way, 1) if self._is_zero(value, move.target, branch) is not None), default=0)

    def _parts(self, value: Value, move: Move, branch: Branch, cause: Cause) -> list[Step]:
        """One move: what is put in order before it, itself, and what is put in order after it."""
        name = self._name(value)
        held, (before, itself, after) = self.prices.move(value, move) if self.prices else _FREE
        parts: list[Step] = [Reorder("pack", name, move, cause, branch, before)] if is_packed(move, self.mesh) else []
        if move.kind == "slice":
            return [*parts, Reorder("slice", name, move, cause, branch, itself)]
        parts.append(Transfer(name, move, cause, branch, held, itself))
        return [*parts, Reorder("unpack", name, move, cause, branch, after)] if is_unpacked(move, self.mesh) else parts

    def _hold(self, value: Value, sharding: Sharding, branch: Branch, zero: bool) -> None:
        self._held.setdefault(branch, {})[value, sharding] = zero

    def _is_zero(self, value: Value, sharding: Sharding, branch: Branch) -> bool | None:
        """Whether the padding of a value held as `sharding` is known to be zero; None where it is not held so."""
        for depth in range(len(branch), -1, -1):
            found = self._held.get(branch[:depth], {}).get((value, sharding))
            if found is not None:
                return found
        given = value.role != "temporary" and sharding == self.decided.kept[value]
        return True if given else None

    def _is_padded(self, runs: Strategy) -> bool:
        """Whether any factor of an operator is split unevenly."""
        found = self._padded.get(id(runs))
        if found is None:
            found = self._padded[id(runs)] = any(split.is_padded(self.mesh) for _, split in runs.splits)
        return found

    def _name(self, value: Value) -> str:
        found = self._names.get(value)
        if found is None:
            found = self._names[value] = value.path
        return found


def _made(node: Node, runs: Strategy, kept: Mapping[Value, Sharding]) -> Sequence[tuple[Value, Sharding]]:
    """What there is after an operator: what is passed to a loop is there in the loop alone, and the call gives what that returns."""
    if node.op == "argument":
        return []
    if node.called is not None:
        return [(value, kept[value]) for value in node.called.returns]
    return list(zip(node.outputs, runs.outputs, strict=True))


def _span(node: Node) -> str:
    """Where an operator stands in its source, ``file:line``, as far as the module knows."""
    span: Any = node.binding.value.span or getattr(node.binding, "span", None)
    if isinstance(span, tvm.ir.SequentialSpan) and len(span.spans):
        span = span.spans[0]
    return f"{span.source_name.name}:{span.line}" if isinstance(span, tvm.ir.Span) else ""
