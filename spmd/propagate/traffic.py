"""The collectives of a chosen plan, in the order in which lowering makes them, and the time that they and the operators take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm

from ..conversion import conversion
from ..graph import Branch, Node, Value
from ..plan import Collective
from ..sharding import Sharding
from ..strategy import Strategy
from .cost import Cost


class Traffic:
    """What one function sends. A conversion is made once, and what a branch converts is not there outside of it."""

    def __init__(self, cost: Cost, function: str) -> None:
        self.cost, self.function = cost, function
        self.collectives: list[Collective] = []
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
    ) -> None:
        """Count the conversion of a value, where it is not held as `target` already; `node` is number `at` of its function."""
        if source == target or not value.is_tensor:
            return
        if any((value, target) in self._done.get(branch[:depth], ()) for depth in range(len(branch) + 1)):
            return
        self._done.setdefault(branch, set()).add((value, target))
        cost = self.cost
        shape, item = cost.shape(value), cost.item_bytes(value)
        for step in conversion(source, target, cost.mesh) or []:
            seconds = cost.step_time(step, shape, item)
            self.spend(seconds, branch)
            if step.kind != "slice":
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

    def exchange(self, node: Node, strategy: Strategy, exchanges: Sequence[tuple[str, str, int]], at: int) -> None:
        """Count the collectives inside an operator; their time is a part of its own."""
        if not exchanges:
            return
        reason = f"{node.op} {node.name!r} runs split: {strategy}"
        for (kind, axis, held), dtype in zip(exchanges, self._dtypes(node, strategy), strict=True):
            seconds = self.cost.exchange_time(kind, axis, held)
            value = (kind, axis, held, self.function, node.name, reason, dtype, "", node.branch)
            self.collectives.append(Collective(*value, seconds, node.op, at, _span(node)))

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

    def _dtypes(self, node: Node, strategy: Strategy) -> list[str]:
        """Of what each collective inside an operator sends."""
        splits = dict(strategy.splits)
        form = next((node.rule.forms[f] for f in splits if f in node.rule.forms), None)
        exchanges = form.exchanges if form is not None else ()
        return [e.dtype or node.inputs[0].dtype for e in (exchanges(splits, self.cost.mesh) if callable(exchanges) else exchanges)]


def _span(node: Node | None) -> str:
    """Where an operator stands in its source, ``file:line``, as far as the module knows."""
    if node is None:
        return ""
    span: Any = node.binding.value.span or getattr(node.binding, "span", None)
    if isinstance(span, tvm.ir.SequentialSpan) and len(span.spans):
        span = span.spans[0]
    return f"{span.source_name.name}:{span.line}" if isinstance(span, tvm.ir.Span) else ""
