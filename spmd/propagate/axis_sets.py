"""What is worth considering over sets of axes of a mesh, each taken as one axis: what `axes_together` combines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations, pairwise

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.program.graph import Graph, Node
from spmd.rules.model import Rule
from spmd.rules.strategy import Strategy, replicate, strategy_of
from spmd.transfers.atoms import atoms_of

from .candidates import AxisSearch

MOST_PARTS = 3
"""The number of axes and parts of axes that transfers move one by one beyond which, on three axes and more, no further part is considered:
the shardings between which a value moves grow as their factorial."""

Groups = tuple[tuple[str, ...], ...]
"""The axes of a mesh, those that are taken as one axis together."""
Cuts = tuple[int, ...]
"""The places between axes at which a group ends and the next one begins."""


class Searches:
    """What is worth considering over each set of axes taken as one, searched once, and what is made of it, equal things as one object."""

    def __init__(self, graph: Graph, mesh: Mesh) -> None:
        self.graph, self.mesh = graph, mesh
        self.axes = tuple(a for a, n in mesh.axes.items() if n > 1) or tuple(mesh.axes)[:1]
        """Axes of size 1 split nothing, so nothing is split over them."""
        given = (tuple(d.axes for d in v.wanted.dims if d is not None) for v in graph.values if v.wanted is not None)
        self.asked = list(dict.fromkeys(given))
        """What constraints split the dimensions of a value over."""
        self.sets = list(dict.fromkeys([*subsets([(axis,) for axis in self.axes]), *chain.from_iterable(self.asked)]))
        searches = [AxisSearch(graph, mesh, axes) for axes in self.sets]
        self.found = {axes: search.run() for axes, search in zip(self.sets, searches, strict=True)}
        self.canonical: Mapping[Node, Rule] = searches[0].canonical
        self._same: dict[Sharding, Sharding] = {}
        self._interned: dict[Strategy, Strategy] = {}
        self.left_out = self._too_fine()

    def levels(self) -> dict[Cuts, Groups]:
        """The ways to take axes that follow one another, and run over one kind of link, as one axis: the fewest groups first.

        Four axes and more are not taken so: there are too many ways.
        """
        places = range(1, len(self.axes))
        cuts = [cut for count in range(len(self.axes)) for cut in combinations(places, count)] if len(self.axes) <= 3 else [tuple(places)]
        found = {cut: tuple(self.axes[a:b] for a, b in pairwise((0, *cut, len(self.axes)))) for cut in cuts}
        return {cut: groups for cut, groups in found.items() if all(map(self._is_of_one_link, groups))}

    def _is_of_one_link(self, axes: Sequence[str]) -> bool:
        return len({self.mesh.link(axis) for axis in axes}) == 1

    def merged(self, rule: Rule, chosen: Iterable[Strategy]) -> Strategy | None:
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
        inputs, outputs = tuple(map(self.one, made.inputs)), tuple(map(self.one, made.outputs))
        return self._interned.setdefault(made, Strategy(made.splits, inputs, outputs, made.partial_through))

    def one(self, sharding: Sharding) -> Sharding:
        """The one object of this sharding."""
        return self._same.setdefault(sharding, sharding)

    def _too_fine(self) -> frozenset[str]:
        """The parts of axes that are not considered: on three axes and more, those that come when there are `MOST_PARTS` of all."""
        if len(self.axes) < 3:
            return frozenset()
        names = [*self.mesh.axes, *sorted(set(chain.from_iterable(chain.from_iterable(self.asked))).difference(self.mesh.axes))]
        parts = dict.fromkeys(
            axis
            for axes in self.sets
            for found in {id(found): found for found in self.found[axes].strategies.values()}.values()
            for strategy in found
            for axis in axes_of(strategy)
            if axis not in names
        )
        left_out: set[str] = set()
        for part in parts:
            if len(atoms_of(frozenset([*names, part]), self.mesh)) > MOST_PARTS:
                left_out.add(part)
            else:
                names.append(part)
        return frozenset(left_out)


def subsets(groups: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """All ways to take some of these, fewest first, each as one tuple of axes."""
    some = (chosen for size in range(1, len(groups) + 1) for chosen in combinations(groups, size))
    return [tuple(chain.from_iterable(chosen)) for chosen in some]


def axes_of(strategy: Strategy) -> list[str]:
    """The axes, and parts of axes, that a strategy splits factors over."""
    return [axis for _, split in strategy.splits for axis in split.axes]
