"""The shardings worth considering for each value, and the strategies worth considering for each operator, over one mesh axis.

Every factor of every operator proposes itself; a sharding proposed at one end of a value is offered to the operators at its
other ends, until nothing new comes. So the segments of a fused weight are found where they arise (a split, an attention call)
and travel back through reshapes and products to the weight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import tvm

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Sharding, Split
from spmd.placement.spec import Constraint
from spmd.program.graph import Graph, Node, Value
from spmd.rules.model import Rule
from spmd.rules.strategy import Strategy, complete, in_larger_units, partial_strategy, replicate, splits_from, strategy_of

MOST = 32
"""The most shardings of one value, and strategies of one operator, that are considered."""


@dataclass
class Candidates:
    """What the planner chooses from; both in a fixed order, replicated first."""

    shardings: dict[Value, list[Sharding]]
    strategies: dict[Node, list[Strategy]]
    """The strategies of each operator; the same things in the same order are one list, so that equal lists are mostly one object."""
    cut_short: list[str] = field(default_factory=list[str])
    """Names of values that had more candidates than are considered."""
    coarser: Sequence[Candidates] = ()
    """Those of each mesh that has some axes of this one as one axis: all of them are among these."""


class _Use(NamedTuple):
    """Operand number `at` of a node, with what is known of it while candidates are found."""

    node: Node
    is_output: bool
    at: int
    known: dict[int, Strategy]
    """The strategies of the node."""
    offers: dict[int, Strategy | None]
    """The strategy that a sharding of the operand asks for, by identity; one table for all equal rules."""


class AxisSearch:
    """The search over some axes of a mesh taken as one: each split is over all of them, in this order."""

    def __init__(self, graph: Graph, mesh: Mesh, axes: tuple[str, ...]) -> None:
        self.graph, self.mesh, self.axes = graph, mesh, axes
        # Equal shardings and strategies are one object here, so that identity is equality.
        self.shardings: dict[Value, dict[int, Sharding]] = {}
        self.wanted: dict[Value, Sharding] = {}
        """The only sharding, of values that have one only."""
        self.within: dict[Value, Constraint] = {}
        """What is asked of values that have a choice."""
        self.strategies: dict[Node, dict[int, Strategy]] = {}
        self.uses: dict[Value, list[_Use]] = {v: [] for v in graph.values}
        self.queue: deque[tuple[Value, Sharding]] = deque()
        self.cut_short: dict[str, None] = {}
        # Layers repeat: equal rules are one object here, and what follows from a rule is worked out once.
        self.rules: dict[tuple[object, ...], Rule] = {}
        self.canonical: dict[Node, Rule] = {}
        self.of_class: dict[int, Rule] = {}
        self.same: dict[Sharding, Sharding] = {}
        self.strategy: dict[tuple[object, ...], Strategy] = {}
        self.made: dict[tuple[object, ...], Strategy | None] = {}
        self.offers: dict[tuple[object, ...], dict[int, Strategy | None]] = {}
        """Rule and operand -> identity of a sharding -> the strategy that it asks for."""
        self.units: dict[tuple[object, ...], Sharding | None] = {}
        self.seeds: dict[int, list[Strategy]] = {}

    def run(self) -> Candidates:
        """What was found."""
        nodes = [n for f in self.graph.functions.values() for n in f.nodes]
        for value in self.graph.values:
            self.shardings[value] = {}
            if value.wanted is not None:
                asked = value.wanted.over(self.axes)
                first = self._same(asked.first)
                if asked.is_exact:
                    self.wanted[value] = first
                else:
                    self.within[value] = asked
                self._propose(value, first)
            elif value.is_tensor:
                self._propose(value, self._same(Sharding.replicated(len(value.shape))))
        for node in nodes:
            self._register(node)
        for node in nodes:
            for strategy in self._seeds(node):
                self._consider(node, strategy)
        while self.queue:
            value, sharding = self.queue.popleft()
            number = id(sharding)
            for use in self.uses[value]:
                if number not in use.offers:
                    use.offers[number] = self._asked(self.canonical[use.node], use.is_output, use.at, sharding)
                strategy = use.offers[number]
                if strategy is None:
                    if (larger := self._larger(use.node, use.is_output, use.at, sharding)) is not None:
                        self._propose(value, larger)
                elif id(strategy) not in use.known:
                    self._consider(use.node, strategy)
        self._obey_hints(nodes)
        shardings: dict[tuple[int, ...], list[Sharding]] = {}
        strategies: dict[tuple[int, ...], list[Strategy]] = {}
        return Candidates(
            {v: shardings.setdefault(tuple(s), list(s.values())) for v, s in self.shardings.items()},
            {n: strategies.setdefault(tuple(s), list(s.values())) for n, s in self.strategies.items()},
            list(self.cut_short),
        )

    def _obey_hints(self, nodes: list[Node]) -> None:
        """What follows a hint takes the value as the hint asks, and not as it was before it."""
        for node in nodes:
            if node.op == "relax.spmd.hint":
                wanted = {k: s for k, s in self.strategies[node].items() if self._allowed(node.outputs[0], s.outputs[0])}
                self.strategies[node] = wanted or self.strategies[node]

    def _allowed(self, value: Value, sharding: Sharding) -> bool:
        only = self.wanted.get(value)
        if only is not None:
            return sharding is only
        return value not in self.within or self.within[value].allows(sharding)

    def _register(self, node: Node) -> None:
        rule = self.canonical[node] = self._canonical(node)
        known = self.strategies[node] = {}
        for operands, is_output in ((node.inputs, False), (node.outputs, True)):
            for i, value in enumerate(operands):
                self.uses[value].append(_Use(node, is_output, i, known, self.offers.setdefault((id(rule), is_output, i), {})))

    def _canonical(self, node: Node) -> Rule:
        if node.call_class in self.of_class:
            return self.of_class[node.call_class]
        rule = node.rule
        key = (
            rule.inputs,
            rule.outputs,
            tuple(rule.sizes.items()),
            rule.reduce,
            rule.whole,
            rule.unread,
            rule.symbolic,
            rule.uneven,
            tuple(rule.lengths.items()),
            rule.uncounted,
            rule.linear,
            rule.zero,
            rule.neutral,
            rule.pointers,
            tuple(rule.forms.items()),
        )
        return self.of_class.setdefault(node.call_class, self.rules.setdefault(key, rule))

    def _seeds(self, node: Node) -> list[Strategy]:
        rule = self.canonical[node]
        if id(rule) not in self.seeds:
            found = [self._interned(replicate(rule))]
            for group in rule.joint():
                sizes = [rule.sizes[f] for f in group]
                # A piece of size 1 is split too, so that what stands beside it can be.
                if None not in sizes and max(s or 0 for s in sizes) > 1 and not any(f in rule.whole for f in group):
                    splits = {f: Split(self.axes, (Segment(rule.sizes[f] or 0),)).normalized(self.mesh) for f in group}
                    strategy = self._strategy(rule, splits)
                    if strategy is not None:
                        found.append(strategy)
            self.seeds[id(rule)] = found
        return self.seeds[id(rule)]

    def _strategy(self, rule: Rule, splits: dict[str, Split]) -> Strategy | None:
        key = (id(rule), tuple(sorted(splits.items())))
        if key not in self.made:
            made = strategy_of(rule, splits, self.mesh)
            self.made[key] = self._interned(made) if made is not None else None
        return self.made[key]

    def _larger(self, node: Node, is_output: bool, at: int, sharding: Sharding) -> Sharding | None:
        """The sharding to propose where this operand cannot be held by its units."""
        rule = self.canonical[node]
        key = (id(rule), is_output, at, id(sharding))
        if key not in self.units:
            found = in_larger_units((rule.outputs if is_output else rule.inputs)[at], sharding, rule, self.mesh)
            self.units[key] = None if found is None else self._same(found)
        return self.units[key]

    def _asked(self, rule: Rule, is_output: bool, at: int, sharding: Sharding) -> Strategy | None:
        """The strategy that a sharding of one operand asks for."""
        if sharding.partial:
            terms = next((t for t in rule.linear if at in t), None)
            if is_output or terms is None or any(kind != "sum" for _, kind in sharding.partial) or any(sharding.dims):
                return None
            return self._interned(partial_strategy(rule, terms, self.axes, self.mesh))
        if sharding.is_replicated:
            return None
        splits = splits_from((rule.outputs if is_output else rule.inputs)[at], sharding, rule, self.mesh)
        return self._strategy(rule, complete(rule, splits, self.mesh)) if splits else None

    def _consider(self, node: Node, strategy: Strategy) -> None:
        known = self.strategies[node]
        if id(strategy) in known:
            return
        if len(known) >= MOST:
            self.cut_short[f"{node.function}: {node.name}"] = None
            return
        known[id(strategy)] = strategy
        for value, sharding in zip((*node.inputs, *node.outputs), (*strategy.inputs, *strategy.outputs), strict=True):
            if id(sharding) not in self.shardings[value]:
                self._propose(value, sharding)

    def _propose(self, value: Value, sharding: Sharding) -> None:
        known = self.shardings[value]
        if id(sharding) in known or (value.wanted is not None and not self._allowed(value, sharding)) or hides_size(value, sharding):
            return
        if len(known) >= MOST:
            self.cut_short[f"{value.function}: {value.name}"] = None
            return
        known[id(sharding)] = sharding
        self.queue.append((value, sharding))

    def _interned(self, strategy: Strategy) -> Strategy:
        inputs, outputs = tuple(map(self._same, strategy.inputs)), tuple(map(self._same, strategy.outputs))
        key = (strategy.splits, strategy.partial_through, tuple(map(id, inputs)), tuple(map(id, outputs)))
        return self.strategy.setdefault(key, Strategy(strategy.splits, inputs, outputs, strategy.partial_through))

    def _same(self, sharding: Sharding) -> Sharding:
        return self.same.setdefault(sharding, sharding)


def hides_size(value: Value, sharding: Sharding) -> bool:
    """Whether a parameter that tells a symbolic size would not tell it so: shards of a pattern are a multiple of what nobody then knows,
    and an array does not tell a length that is measured by other sizes. What a loop carries tells its sizes whole.
    """
    if not sharding.is_symbolic or value.role not in ("input", "weight", "carried"):
        return False
    if value.role == "carried":
        return True
    repeated = any(d is not None and d.repeated and isinstance(size, tvm.ir.Var) for d, size in zip(sharding.dims, value.dims, strict=True))
    return repeated or bool(sharding.names)
