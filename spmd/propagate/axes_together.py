"""Candidates for meshes of several axes: what is worth considering over each axis alone, and over several taken as one, combined.

A strategy gives each axis a *duty*: a factor (or factors that go together) that it splits, partial sums that it lets through, or
nothing. Axes with the same duty split the same factor, as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, product, zip_longest
from typing import Any

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.program.graph import Graph, Node, Value
from spmd.rules.strategy import Strategy

from .axis_sets import Cuts, Groups, Searches, axes_of, subsets
from .candidates import Candidates, hides_size

MOST_STRATEGIES = 256
MOST_SHARDINGS = 96
"""The most strategies of an operator, and shardings of a value, that are considered on a mesh of several axes."""

Duty = tuple[Any, ...]
"""``(factor, sizes of its segments, whether they are repeated, their length)`` for each factor, ``("partial", *inputs)``, or nothing."""
Duties = tuple[Duty, ...]
"""One for each axis."""
_Options = dict[Duty, dict[tuple[str, ...], list[Strategy]]]
"""The ways to do each duty by these axes: they differ in their units."""


class _Together:
    """Combines the candidates over single groups of axes and over several, with those of meshes that have fewer `groups`."""

    def __init__(self, searches: Searches, groups: Groups, coarser: Sequence[Candidates] = ()) -> None:
        self.graph, self.groups, self._searches, self._coarser = searches.graph, groups, searches, tuple(coarser)
        together = subsets(groups)
        self.sets = list(dict.fromkeys([*together, *chain.from_iterable(searches.asked)]))
        whole = set(map(frozenset, together))
        self._beside = [sets for sets in searches.asked if not whole.issuperset(map(frozenset, sets))]
        """What constraints split dimensions over beside each other, where these are parts of groups, or axes of size 1."""
        self.found, self.canonical = searches.found, searches.canonical
        self._strategies: dict[tuple[Any, ...], list[Strategy]] = {}
        self._options: dict[tuple[Any, ...], _Options] = {}
        self._unions: dict[tuple[Any, ...], list[Sharding]] = {}
        self._lists: dict[tuple[int, ...], list[Sharding]] = {}
        self._cut_short: dict[str, None] = {}
        self._incomplete: set[tuple[Any, ...]] = set()
        """The strategies over each set of axes, alone or with their rule, of which combinations are left out."""

    def candidates(self) -> Candidates:
        """What there is to choose."""
        if len(self.sets) == 1 and not self._searches.left_out:
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
        cut_short = dict.fromkeys([*self._cut_short, *(n for axes in self.sets for n in self.found[axes].cut_short)])
        return Candidates(shardings, strategies, list(cut_short), self._coarser)

    def _shardings(self, value: Value, columns: Mapping[tuple[int, bool, int], list[Sharding]]) -> list[Sharding]:
        if value.wanted is not None and value.wanted.is_exact:
            return self._list([self._searches.one(value.wanted.first)])
        key = (value.is_tensor, len(value.shape), *columns)
        if key not in self._unions:
            first = [self._searches.one(Sharding.replicated(len(value.shape)))] if value.is_tensor else []
            # In turns, so that what is cut off is last in each column.
            turns = chain.from_iterable(zip_longest(*columns.values()))
            self._unions[key] = list(dict.fromkeys([*first, *(s for s in turns if s is not None)]))
        found = self._unions[key]
        if value.wanted is not None:
            found = [self._searches.one(s) for s in value.wanted.among(found)]
        if value.role == "carried" and None in value.shape:
            found = [s for s in found if not hides_size(value, s)]
        if len(found) > MOST_SHARDINGS:
            self._cut_short[f"{value.function}: {value.name}"] = None
            coarse = [self._searches.one(s) for c in self._coarser for s in c.shardings[value]]
            found = list(dict.fromkeys([*found[:MOST_SHARDINGS], *coarse]))
        return self._list(found)

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
            made = self._combined(node, key)
            # What a coarser mesh has is never left out.
            more = [s for c in self._coarser for s in c.strategies[node]] if key in self._incomplete else []
            self._strategies[key] = list(dict.fromkeys([*made, *more])) if more else made
        if key in self._incomplete or found in self._incomplete:
            self._cut_short[f"{node.function}: {node.name}"] = None
        return self._strategies[key]

    def _split_by(self, node: Node, key: tuple[Any, ...]) -> _Options:
        """What an operator can do over each set of axes."""
        found = key[1]
        if found not in self._options:
            options: _Options = {}
            for axes in self.sets:
                for strategy in self.found[axes].strategies[node]:
                    if self._searches.left_out.isdisjoint(axes_of(strategy)):
                        options.setdefault(_duty(strategy), {}).setdefault(axes, []).append(strategy)
                    else:
                        self._incomplete.add(found)
            self._options[found] = options
        return self._options[found]

    def _combined(self, node: Node, key: tuple[Any, ...]) -> list[Strategy]:
        rule, options = self.canonical[node], self._split_by(node, key)
        choices = [[(), *(p for p, by in options.items() if p and any(set(group) <= set(axes) for axes in by))] for group in self.groups]
        made: dict[int, Strategy] = {}
        # Those with few duties come first: a mesh that has the axes of this one as one axis is among them.
        for duties in sorted(product(*choices), key=lambda duties: len({d for d in duties if d})):
            ways = [self._ways(options, duty, duties) for duty in dict.fromkeys(d for d in duties if d)]
            for strategy in (self._searches.merged(rule, chosen) for chosen in product(*ways)):
                if strategy is not None and id(strategy) not in made:
                    if len(made) == MOST_STRATEGIES:
                        self._incomplete.add(key)
                        break
                    made[id(strategy)] = strategy
            if len(made) == MOST_STRATEGIES and key in self._incomplete:
                break
        for sets in self._beside:
            for chosen in product(*(self.found[axes].strategies[node] for axes in sets)):
                merged = self._searches.merged(rule, chosen)
                if merged is not None and id(merged) not in made:
                    if len(made) >= 2 * MOST_STRATEGIES:
                        self._incomplete.add(key)
                        break
                    made[id(merged)] = merged
        return list(made.values())

    def _ways(self, options: _Options, duty: Duty, duties: Duties) -> list[Strategy]:
        """The strategies over all axes that have this duty, and no others."""
        axes = frozenset(axis for group, p in zip(self.groups, duties, strict=True) if p == duty for axis in group)
        return [s for order, found in options.get(duty, {}).items() if frozenset(order) == axes for s in found]


def _duty(strategy: Strategy) -> Duty:
    if strategy.partial_through:
        return ("partial", *strategy.partial_through)
    return tuple((f, tuple(s.size for s in split.segments), split.repeated, split.length) for f, split in strategy.splits)


def find_candidates(graph: Graph, mesh: Mesh) -> Candidates:
    """All candidates, over all axes of a mesh together. Those of each mesh that this one refines are among them."""
    searches = Searches(graph, mesh)
    found: dict[Cuts, Candidates] = {}
    for cuts, groups in searches.levels().items():
        coarser = [candidates for others, candidates in found.items() if set(others) < set(cuts)]
        found[cuts] = _Together(searches, groups, coarser).candidates()
    return list(found.values())[-1]
