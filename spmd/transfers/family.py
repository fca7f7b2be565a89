"""Shardings of tensors of one rank that are searched together: as states of a graph, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import factorial, prod

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split

from .atoms import atoms_of, conflicts, continued, names_of, numbers_of
from .graph import Graph
from .states import Edge, Held, Kind, State
from .tiling import Tiling, in_proportion

Tilings = tuple[tuple[Tiling, ...], ...]
"""Those of each dimension, none where it is whole."""
MOST_STATES = 1 << 13
"""Shardings that are searched together on a mesh of more than three axes; with more of them, and their moves, that takes minutes."""


@dataclass(frozen=True)
class View:
    """A sharding as transfers see it."""

    names: frozenset[str]
    """The axes that it uses."""
    tilings: tuple[Tiling | None, ...]
    axes: tuple[tuple[str, ...], ...]
    partial: tuple[tuple[str, str], ...]


@lru_cache(maxsize=1 << 15)
def view_of(sharding: Sharding, mesh: Mesh) -> View:
    """What of a sharding its transfers hang on."""
    tilings = tuple([split and Tiling.by(split, mesh) for split in sharding.dims])
    axes = tuple([split.axes if split else () for split in sharding.dims])
    return View(frozenset(sharding.axes()), tilings, axes, sharding.partial)


def tilings_of(views: Iterable[View]) -> Tilings:
    """All tilings of each dimension, in an order of their own."""
    found = [sorted({t for t in of_dim if t is not None}, key=repr) for of_dim in zip(*[view.tilings for view in views], strict=True)]
    return tuple(map(tuple, found))


class Family:
    """The shardings over some axes, by some tilings, of values that are partial in one way or not at all."""

    def __init__(
        self,
        mesh: Mesh,
        names: frozenset[str],
        tilings: Tilings,
        partial: tuple[tuple[str, str], ...],
        ends: tuple[View, View] | None = None,
    ) -> None:
        self.mesh, self.tilings = mesh, tilings
        self.atoms = atoms_of(names, mesh)
        self.names = [names_of([atom], mesh)[0] for atom in self.atoms]
        self.dims = [dim for dim, found in enumerate(tilings) if found]
        """The dimensions of the tensor that are dimensions of the graph."""
        found = {(at, number): tiling for at, dim in enumerate(self.dims) for number, tiling in enumerate(tilings[dim])}
        self.measured = {place: tiling.of for place, tiling in found.items() if tiling.uneven and tiling.of is not None}
        """Splits by the tilings whose sizes they alone tell, by dimension and number."""
        self._reductions = self._partial(partial)
        self._numbers: dict[View, int] = {}
        states = ends and (self._state(ends[0]), self._state(ends[1]))
        alike = tuple([in_proportion(tilings[dim], prod([atom.size for atom in self.atoms])) for dim in self.dims])
        slow = frozenset(atom for atom, name in enumerate(self.names) if mesh.is_slow(name))
        sizes = tuple([atom.size for atom in self.atoms])
        pairs = conflicts(self.atoms), continued(self.atoms)
        kind = Kind(sizes, alike, tuple(sorted(self._reductions.items())), slow if len(slow) < len(sizes) else frozenset(), *pairs, states)
        if (
            ends is None
            and len([n for n in mesh.axes.values() if n > 1]) > 3
            and count_states(len(sizes), list(map(len, alike)), bool(self._reductions)) > MOST_STATES
        ):
            raise too_many_axes(mesh)
        self.graph = _graph(kind)

    def numbers(self, views: Sequence[View]) -> list[int]:
        """The states of shardings, -1 where one is partial otherwise."""
        for view in views:
            if view not in self._numbers:
                comparable = self._partial(view.partial).items() <= self._reductions.items()
                self._numbers[view] = self.graph.number.get(self._state(view), -1) if comparable else -1
        return [self._numbers[view] for view in views]

    def axis(self, atoms: Sequence[int]) -> str:
        """The name of the axis over which a move of these atoms runs."""
        return "+".join(names_of([self.atoms[atom] for atom in atoms], self.mesh))

    def shardings(self, source: Sharding, moves: Sequence[Edge], target: Sharding) -> tuple[Sharding, ...]:
        """What a value goes through, both ends among it."""
        return (source, *[self._sharding(source, move.after) for move in moves[:-1]], *([target] if moves else []))

    def _state(self, view: View) -> State:
        dims: list[Held | None] = []
        for dim in self.dims:
            tiling = view.tilings[dim]
            atoms = numbers_of(view.axes[dim], self.atoms, self.mesh)
            dims.append(None if tiling is None else Held(self.tilings[dim].index(tiling), 1, atoms))
        return State(tuple(dims), frozenset(self._partial(view.partial)))

    def _partial(self, partial: Sequence[tuple[str, str]]) -> dict[int, str]:
        return {atom: kind for name, kind in partial for atom in numbers_of((name,), self.atoms, self.mesh)}

    def _sharding(self, source: Sharding, state: State) -> Sharding:
        dims: list[Split | None] = [None] * len(source.dims)
        for dim, held in zip(self.dims, state.dims, strict=True):
            if held is not None:
                axes = names_of([self.atoms[atom] for atom in held.atoms], self.mesh)
                dims[dim] = self.tilings[dim][held.tiling].split(axes, held.cuts, self.mesh)
        partial: list[tuple[str, str]] = []
        for name, kind in source.partial:
            left = [atom for atom in numbers_of((name,), self.atoms, self.mesh) if atom in state.partial]
            partial += [(part, kind) for part in names_of([self.atoms[atom] for atom in left], self.mesh)]
        return Sharding(tuple(dims), tuple(partial))


def too_many_axes(mesh: Mesh) -> ShardingError:
    """What is said where there are too many ways to use the axes of a mesh."""
    way_out = "Join axes that go together, as in Mesh(dp=4) for Mesh(dp=2, fsdp=2), or hold more values by specs."
    return ShardingError(f"{mesh}", f"there are too many ways to split a tensor over {len(mesh.axes)} axes to search them all", way_out)


def count_states(atoms: int, tilings: Sequence[int], is_partial: bool) -> int:
    """The states of a kind at most, by the number of tilings of each dimension: each is whole, or split by a tiling over some atoms in an
    order, and each atom that is left reduces or does not. That is a coefficient of a product of exponential generating functions.
    """
    found = [1 / factorial(used) * (2 if is_partial else 1) ** used for used in range(atoms + 1)]
    for count in tilings:
        found = [found[used] + count * sum(found[:used]) for used in range(atoms + 1)]
    return round(found[atoms] * factorial(atoms))


@lru_cache(maxsize=1 << 10)
def _graph(kind: Kind) -> Graph:
    return Graph(kind)
