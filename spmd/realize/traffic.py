"""The collectives of a chosen plan, in the order in which lowering makes them, and the time that they and the operators take.

Operator i of a function takes its operands at time 3i, sends at 3i + 1 and gives its results at 3i + 2; what a function returns is
taken after all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tvm

from spmd.costs.cost import Cost, Sent
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Collective, Route
from spmd.program.graph import Branch, Node, Value
from spmd.rules.strategy import Strategy
from spmd.transfers.conversion import Step

from .bundles import FULL, Waiting, bundles

_END = 1 << 60


class Traffic:
    """What one function sends. A conversion is made once, and what a branch converts is not there outside of it."""

    def __init__(self, cost: Cost, function: str) -> None:
        self.cost, self.function = cost, function
        self.collectives: list[Collective] = []
        self.routes: dict[tuple[str, Sharding, Sharding], Route] = {}
        self._when: list[int] = []
        self._single: list[tuple[int, Value, Step]] = []
        """Conversions of one collective: its place, the value, the step."""
        self._times: dict[Branch, float] = {(): 0.0}
        self._done: dict[Branch, set[tuple[Value, Sharding]]] = {}

    def spend(self, seconds: float, branch: Branch) -> None:
        """Count the time of an operator."""
        for depth in range(len(branch)):
            self._times.setdefault(branch[:depth], 0.0)
        self._times[branch] = self._times.get(branch, 0.0) + seconds

    def convert(
        self,
        value: Value,
        source: Sharding,
        target: Sharding,
        branch: Branch,
        reason: Callable[[], str],
        node: Node | None = None,
        at: int = -1,
        gather: bool = True,
    ) -> None:
        """Count the conversion of a value, where it is not held as `target` already; `node` is number `at` of its function."""
        if source == target or not value.is_tensor:
            return
        if any((value, target) in self._done.get(branch[:depth], ()) for depth in range(len(branch) + 1)):
            return
        if not value.memory:  # what is written in place is another value each time
            self._done.setdefault(branch, set()).add((value, target))
        cost = self.cost
        shape, item = cost.shape(value), cost.item_bytes(value)
        when = _END if node is None else 3 * at + 2 * (value in node.outputs)
        sent: list[Step] = []
        steps = cost.steps(value, source, target, gather) or ()
        if len(steps) > 1:
            self.routes[value.name, source, target] = Route(self.function, value.name, (source, *[step.target for step in steps]))
        for step in steps:
            seconds = cost.step_time(step, shape, item)
            self.spend(seconds, branch)
            if step.kind != "slice":
                sent.append(step)
                self._when.append(when)
                held = cost.step_bytes(step, shape, item)
                self.collectives.append(
                    Collective(
                        step.kind,
                        step.axis,
                        held,
                        self.function,
                        value.name,
                        reason(),
                        value.dtype,
                        step.reduce,
                        branch,
                        seconds,
                        node.op if node is not None else "",
                        at,
                        _span(node),
                        source,
                        target,
                    )
                )
        if len(sent) == 1 and sent[0].kind != "permute" and not value.memory:
            self._single.append((len(self.collectives) - 1, value, sent[0]))

    def exchange(self, node: Node, strategy: Strategy, exchanges: Sequence[Sent], at: int) -> None:
        """Count the collectives inside an operator; their time is a part of its own."""
        if not exchanges:
            return
        reason = f"{node.op} {node.name!r} runs split: {strategy}"
        for kind, axis, held, dtype in exchanges:
            seconds = self.cost.exchange_time(kind, axis, held)
            value = (kind, axis, held, self.function, node.name, reason, dtype, "", node.branch)
            self._when.append(3 * at + 1)
            self.collectives.append(Collective(*value, seconds, node.op, at, _span(node)))

    def bundle(self, nodes: Sequence[Node]) -> None:
        """Put together what goes in one call, which saves latencies, once all is counted; `nodes` are those of the function.

        A function with an If is left as it is: what a branch takes is not ready outside of it.
        """
        if len(self._single) < 2 or any(node.branch for node in nodes):
            return
        for number, bundle in enumerate(bundles(self._waiting(nodes)), 1):
            for i, one in enumerate(bundle):
                collective, saved = self.collectives[one.place], self._latency(one.place) if i else 0.0
                self.collectives[one.place] = replace(collective, bundle=number, seconds=collective.seconds - saved)
                self._when[one.place] = bundle[0].needed
                self._times[()] -= saved
        order = sorted(range(len(self._when)), key=lambda i: (self._when[i], self.collectives[i].bundle))
        self.collectives = [self.collectives[i] for i in order]

    def _waiting(self, nodes: Sequence[Node]) -> list[Waiting]:
        """The collectives that could wait for others."""
        made, used = dict.fromkeys((value for _, value, _ in self._single), -1), dict[Value, int]()
        for i, node in enumerate(nodes):
            for value in node.inputs:
                if value in made:
                    used.setdefault(value, 3 * i)
            made.update((value, 3 * i + 2) for value in node.outputs if value in made)
        converted_when_made = {value for place, value, _ in self._single if self._when[place] == made[value]}
        found: list[Waiting] = []
        for place, value, step in self._single:
            when, ready, collective = self._when[place], made[value], self.collectives[place]
            if when != ready and value in converted_when_made:
                continue  # it goes on from what may have to wait itself
            needed = used.get(value, _END) if when == ready else when
            latency = self._latency(place)
            alike = (step.kind, step.axis, step.reduce, step.dim, step.to_dim, value.dtype)
            found.append(Waiting(place, ready, needed, alike, collective.seconds - latency, FULL * latency))
        return found

    def _latency(self, place: int) -> float:
        collective = self.collectives[place]
        return min(self.cost.link(collective.axis).latency, collective.seconds)

    def seconds(self) -> float:
        """The predicted time; of two branches, that of the slower."""
        inside: dict[Branch, dict[str, float]] = {}
        total = 0.0
        for branch in sorted(self._times, key=len, reverse=True):
            total = self._times[branch] + sum(inside.get(branch, {}).values())
            if branch:
                slower, name = inside.setdefault(branch[:-1], {}), branch[-1][0]
                slower[name] = max(slower.get(name, 0.0), total)
        return total


def _span(node: Node | None) -> str:
    """Where an operator stands in its source, ``file:line``, as far as the module knows."""
    if node is None:
        return ""
    span: Any = node.binding.value.span or getattr(node.binding, "span", None)
    if isinstance(span, tvm.ir.SequentialSpan) and len(span.spans):
        span = span.spans[0]
    return f"{span.source_name.name}:{span.line}" if isinstance(span, tvm.ir.Span) else ""
