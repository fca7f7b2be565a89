"""Candidates for meshes of several axes: what is worth considering over each axis alone, and over several taken as one, combined.

A strategy gives each axis a *part*: a factor (or factors that go together) that it splits, partial sums that it lets through, or
nothing. Axes with the same part split the same factor, as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, combinations, product, zip_longest
from typing import Any

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.program.graph import Graph, Node, Value
from spmd.rules.model import Rule
from spmd.rules.strategy import Strategy, replicate, strategy_of
from spmd.transfers.atoms import atoms_of

from .candidates import AxisSearch, Candidates, hides_size

MOST_STRATEGIES = 256
MOST_SHARDINGS = 96
"""The most strategies of an operator, and shardings of a value, that are considered on a mesh of several axes."""

MOST_PARTS = 3
"""The number of axes and parts of axes that transfers move one by one beyond which, on three axes and more, no further part is considered:
the shardings between which a value moves grow as their factorial."""

Part = tuple[Any, ...]
"""``(factor, sizes of its segments, whether they are repeated, their length)`` for each factor, ``("partial", *inputs)``, or nothing."""
Parts = tuple[Part, ...]
"""One for each axis."""
_Options = dict[Part, dict[tuple[str, ...], list[Strategy]]]
"""The ways to do each part by these axes: they differ in their units."""


class _Together:
    """Finds the candidates of a graph over all axes of `mesh`."""

    def __init__(self, graph: Graph, mesh: Mesh) -> None:
        self.graph, self.mesh = graph, mesh
        self.axes = tuple(a for a, n in mesh.axes.items() if n > 1) or tuple(mesh.axes)[:1]
        """Axes of size 1 split nothing, so nothing is split over them."""
        sets = [s for size in range(1, len(self.axes) + 1) for s in combinations(self.axes, size)]
        asked = [tuple(d.axes for d in v.wanted.dims if d is not None) for v in graph.values if v.wanted is not None]
        self.sets = list(dict.fromkeys([*sets, *chain.from_iterable(asked)]))
        self.beside = [axes for axes in dict.fromkeys(asked) if not set(chain.from_iterable(axes)) <= set(self.axes)]
        """What constraints split dimensions over beside each other, where these are parts of axes, or axes of size 1."""
        searches = [AxisSearch(graph, mesh, axes) for axes in self.sets]
        self.found = {axes: search.run() for axes, search in zip(self.sets, searches, strict=True)}
        self.canonical: Mapping[Node, Rule] = searches[0].canonical
        self._same: dict[Sharding, Sharding] = {}
        self._strategies: dict[tuple[Any, ...], list[Strategy]] = {}
        self._interned: dict[Strategy, Strategy] = {}
        self._options: dict[tuple[Any, ...], _Options] = {}
        self._unions: dict[tuple[Any, ...], list[Sharding]] = {}
        self._lists: dict[tuple[int, ...], list[Sharding]] = {}
        self._cut_short: dict[str, None] = {}
        self._incomplete: set[tuple[Any, ...]] = set()
        """The strategies over each set of axes, alone or with their rule, of which combinations are left out."""
        self._left_out = self._too_fine()

    def candidates(self) -> Candidates:
        """What there is to choose."""
        if len(self.sets) == 1:
            return self.found[self.sets[0]]
        strategies = {n: self._of(n) for f in self.graph.functions.values() for n in f.nodes}
        offered: dict[Value, dict[tuple[int, bool, int], list[Sharding]]] = {v: {} for v in self.graph.values}
        for node, found in strategies.items():
            for i, value in enumerate(node.inputs):
                offered[value].setdefault((id(found), False, i), self._column(found, False, i))
            for i, value in enumerate(node.outputs):
                offered[value].setdefault((id(found), True, i), self._column(found, True, i))
        shardings = {v: self._shardings(v, columns) for v, columns in offered.items()}
        for node, found in strategies.items():
            if node.op == "relax.spmd.hint":  # what follows a hint takes the value as it asks
                asked_for = node.outputs[0].wanted
                strategies[node] = [s for s in found if asked_for is None or asked_for.allows(s.outputs[0])] or found
        cut_short = dict.fromkeys([*self._cut_short, *(n for c in self.found.values() for n in c.cut_short)])
        return Candidates(shardings, strategies, list(cut_short))

    def _shardings(self, value: Value, columns: Mapping[tuple[int, bool, int], list[Sharding]]) -> list[Sharding]:
        if value.wanted is not None and value.wanted.is_exact:
            return self._list([self._one(value.wanted.first)])
        key = (value.is_tensor, len(value.shape), *columns)
        if key not in self._unions:
            first = [self._one(Sharding.replicated(len(value.shape)))] if value.is_tensor else []
            # In turns, so that what is cut off is last in each column.
            turns = chain.from_iterable(zip_longest(*columns.values()))
            self._unions[key] = list(dict.fromkeys([*first, *(s for s in turns if s is not None)]))
        found = self._unions[key]
        if value.wanted is not None:
            found = [self._one(s) for s in value.wanted.among(found)]
        if value.role == "carried" and None in value.shape:
            found = [s for s in found if not hides_size(value, s)]
        if len(found) > MOST_SHARDINGS:
            self._cut_short[f"{value.function}: {value.name}"] = None
        return self._list(found[:MOST_SHARDINGS])

    def _list(self, found: list[Sharding]) -> list[Sharding]:
        """The one list of these."""
        return self._lists.setdefault(tuple(map(id, found)), found)

    def _column(self, strategies: list[Strategy], is_output: bool, at: int) -> list[Sharding]:
        key = ("column", id(strategies), is_output, at)
        if key not in self._unions:
            self._unions[key] = list(dict.fromkeys((s.outputs if is_output else s.inputs)[at] for s in strategies))
        return self._unions[key]

    def _of(self, node: Node) -> list[Strategy]:
        found = tuple(tuple(map(id, self.found[axes].strategies[node])) for axes in self.sets)
        key = (id(self.canonical[node]), found)
        if key not in self._strategies:
            self._strategies[key] = self._combined(node, key)
        if key in self._incomplete or found in self._incomplete:
            self._cut_short[f"{node.function}: {node.name}"] = None
        return self._strategies[key]

    def _too_fine(self) -> frozenset[str]:
        """The parts of axes that are not considered: on three axes and more, those that come when there are `MOST_PARTS` of all."""
        given = {axis for v in self.graph.values if v.wanted is not None for d in v.wanted.dims if d is not None for axis in d.axes}
        names = [*self.mesh.axes, *sorted(given.difference(self.mesh.axes))]
        if len(self.axes) < 3:
            return frozenset()
        parts = dict.fromkeys(
            axis
            for axes in self.sets
            for found in {id(found): found for found in self.found[axes].strategies.values()}.values()
            for strategy in found
            for axis in _axes(strategy)
            if axis not in names
        )
        left_out: set[str] = set()
        for part in parts:
            if len(atoms_of(frozenset([*names, part]), self.mesh)) > MOST_PARTS:
                left_out.add(part)
            else:
                names.append(part)
        return frozenset(left_out)

    def _split_by(self, node: Node, key: tuple[Any, ...]) -> _Options:
        """What an operator can do over each set of axes."""
        found = key[1]
        if found not in self._options:
            options: _Options = {}
            for axes in self.sets:
                for strategy in self.found[axes].strategies[node]:
                    if self._left_out.isdisjoint(_axes(strategy)):
                        options.setdefault(_part(strategy), {}).setdefault(axes, []).append(strategy)
                    else:
                        self._incomplete.add(found)
            self._options[found] = options
        return self._options[found]

    def _combined(self, node: Node, key: tuple[Any, ...]) -> list[Strategy]:
        rule, options = self.canonical[node], self._split_by(node, key)
        choices = [[(), *(p for p, by_axes in options.items() if p and any(axis in axes for axes in by_axes))] for axis in self.axes]
        made: dict[int, Strategy] = {}
        # Those with few parts come first: a mesh that has the axes of this one as one axis is among them.
        for parts in sorted(product(*choices), key=lambda parts: len({p for p in parts if p})):
            ways = [self._ways(options, part, parts) for part in dict.fromkeys(p for p in parts if p)]
            for strategy in (self._merged(rule, chosen) for chosen in product(*ways)):
                if strategy is not None and id(strategy) not in made:
                    if len(made) == MOST_STRATEGIES:
                        self._incomplete.add(key)
                        break
                    made[id(strategy)] = strategy
            if len(made) == MOST_STRATEGIES and key in self._incomplete:
                break
        for sets in self.beside:
            for chosen in product(*(self.found[axes].strategies[node] for axes in sets)):
                merged = self._merged(rule, chosen)
                if merged is not None and id(merged) not in made:
                    if len(made) >= 2 * MOST_STRATEGIES:
                        self._incomplete.add(key)
                        break
                    made[id(merged)] = merged
        return list(made.values())

    def _ways(self, options: _Options, part: Part, parts: Parts) -> list[Strategy]:
        """The strategies over all axes that have this part, and no others."""
        axes = frozenset(a for a, p in zip(self.axes, parts, strict=True) if p == part)
        return [s for order, found in options.get(part, {}).items() if frozenset(order) == axes for s in found]

    def _merged(self, rule: Rule, chosen: Iterable[Strategy]) -> Strategy | None:
        """One strategy that does what all of these do."""
        splits: dict[str, Split] = {}
        terms: dict[str, tuple[int, ...]] = {}
        for one in chosen:
            terms.update({axis: one.partial_through for s in one.inputs for axis, _ in s.partial})
            for factor, split in one.splits:
                if splits.setdefault(factor, split) != split:
                    return None
        made = strategy_of(rule, splits, self.mesh, terms) if splits or terms else replicate(rule)
        if made is None:
            return None
        inputs, outputs = tuple(map(self._one, made.inputs)), tuple(map(self._one, made.outputs))
        return self._interned.setdefault(made, Strategy(made.splits, inputs, outputs, made.partial_through))

    def _one(self, sharding: Sharding) -> Sharding:
        return self._same.setdefault(sharding, sharding)


def _axes(strategy: Strategy) -> list[str]:
    """The axes, and parts of axes, that a strategy splits factors over."""
    return [axis for _, split in strategy.splits for axis in split.axes]


def _part(strategy: Strategy) -> Part:
    if strategy.partial_through:
        return ("partial", *strategy.partial_through)
    return tuple((f, tuple(s.size for s in split.segments), split.repeated, split.length) for f, split in strategy.splits)


def find_candidates(graph: Graph, mesh: Mesh) -> Candidates:
    """All candidates, over all axes of a mesh together."""
    return _Together(graph, mesh).candidates()
