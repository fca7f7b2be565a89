"""The shardings that a tensor can go through on its way, and the moves from each to the next; sizes matter in proportion only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise, permutations
from math import prod
from typing import NamedTuple

from .tiling import Tiling

Atoms = tuple[int, ...]
"""Parts of mesh axes by number, major first."""


class Held(NamedTuple):
    """How one dimension is split: by which of its tilings, each piece of it cut into `cuts` pieces first, over which atoms.

    With ``cuts`` above 1, workers hold together what those along major atoms would deal out: ``[tp:8|8]`` of ``[dp+tp]``.
    """

    tiling: int
    cuts: int
    atoms: Atoms


class State(NamedTuple):
    """A sharding: each dimension, None where it is whole, and the atoms over which the value is partial."""

    dims: tuple[Held | None, ...]
    partial: frozenset[int] = frozenset()

    def used(self) -> set[int]:
        """All atoms that split it or over which it is partial."""
        return {atom for held in self.dims if held for atom in held.atoms} | self.partial

    def with_dim(self, dim: int, held: Held | None) -> State:
        """The state with another split of one dimension."""
        return State((*self.dims[:dim], held, *self.dims[dim + 1 :]), self.partial)


class Edge(NamedTuple):
    """A move from one state of a graph to another. `kind` is that of `conversion.Move`; `dim` and `to_dim` are -1 where it has none."""

    kind: str
    atoms: Atoms
    dim: int
    to_dim: int
    after: State

    @property
    def into(self) -> int:
        """The dimension that it splits further, or -1."""
        return self.to_dim if self.kind == "all_to_all" else self.dim if self.kind in ("slice", "reduce_scatter") else -1


@dataclass(frozen=True)
class Kind:
    """All that the moves of a pair of shardings depend on: equal for tensors of other sizes that split alike."""

    sizes: tuple[int, ...]
    """The size of each atom, in the order of the mesh."""
    tilings: tuple[tuple[Tiling, ...], ...]
    """Those of each dimension that is split before or after, in proportion."""
    reductions: tuple[tuple[int, str], ...] = ()
    """The atoms over which the value is partial at first, and how it is reduced."""
    slow: frozenset[int] = frozenset()
    """The atoms over which a byte takes longer than over the others: these may come and go as the major ones, before the others do."""
    conflicts: frozenset[tuple[int, int]] = frozenset()
    """Atoms that cannot be used at once."""
    continued: frozenset[tuple[int, int]] = frozenset()
    """The pairs of atoms of which the second goes on where the first ends, as parts of one axis."""
    ends: tuple[State, State] | None = None
    """Source and target, where there are so many atoms that only what leads from the one to the other is searched."""

    @cached_property
    def start(self) -> State:
        """A state from which all others are reached."""
        return self.ends[0] if self.ends else State((None,) * len(self.tilings), frozenset(atom for atom, _ in self.reductions))


@dataclass
class States:
    """All states of a kind, found from `Kind.start`, and the moves between them."""

    kind: Kind
    states: list[State] = field(default_factory=list[State])
    number: dict[State, int] = field(default_factory=dict[State, int])
    moves: list[tuple[int, Edge, int]] = field(default_factory=list[tuple[int, Edge, int]])
    """The moves with the numbers of the state before, in the order of these, and of the state after."""

    def __post_init__(self) -> None:
        self._known: dict[tuple[object, ...], bool] = {}
        self._add(self.kind.start)
        for number, state in enumerate(self.states):
            for move in self._moves(state):
                self.moves.append((number, move, self._add(move.after)))
        if self.kind.ends is None:
            self._exchange_all()

    def _add(self, state: State) -> int:
        number = self.number.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
        return number

    def workers(self, atoms: Iterable[int]) -> int:
        """How many workers there are along these atoms."""
        return prod([self.kind.sizes[atom] for atom in atoms])

    def _moves(self, state: State) -> Iterator[Edge]:
        used = state.used()
        free = [atom for atom in range(len(self.kind.sizes)) if atom not in used and not self._in_conflict(atom, used)]
        kinds = dict(self.kind.reductions)
        for kind in dict.fromkeys(kinds[atom] for atom in sorted(state.partial)):
            alike = [atom for atom in sorted(state.partial) if kinds[atom] == kind]
            for count in range(1, len(alike) + 1):
                for atoms in combinations(alike, count):
                    yield Edge("all_reduce", atoms, -1, -1, State(state.dims, state.partial - set(atoms)))
        sums = [atom for atom in sorted(state.partial) if kinds[atom] == "sum"]
        for dim in range(len(state.dims)):
            for atoms in self._orders(free):
                for held in self._onto(state, dim, atoms):
                    yield Edge("slice", atoms, dim, -1, state.with_dim(dim, held))
            for atoms in self._orders(sums):
                for held in self._onto(state, dim, atoms):
                    after = state.with_dim(dim, held)
                    yield Edge("reduce_scatter", atoms, dim, -1, State(after.dims, state.partial - set(atoms)))
            for atoms, held in self._off(state, dim):
                after = state.with_dim(dim, held)
                yield Edge("all_gather", atoms, dim, -1, after)
                for to_dim in range(len(state.dims)):
                    if to_dim != dim:
                        for onto in self._onto(after, to_dim, atoms):
                            yield Edge("all_to_all", atoms, dim, to_dim, after.with_dim(to_dim, onto))
        if self.kind.ends is not None:
            yield from self._exchange(state, self.kind.ends[1])

    def _in_conflict(self, atom: int, used: Iterable[int]) -> bool:
        return bool(self.kind.conflicts) and any((atom, other) in self.kind.conflicts for other in used)

    def _orders(self, atoms: list[int]) -> Iterator[Atoms]:
        """All ways to take some of the atoms one after the other, fewest first."""
        for count in range(1, len(atoms) + 1):
            for order in permutations(atoms, count):
                if not self.kind.conflicts or not any(self._in_conflict(atom, order) for atom in order):
                    yield order

    def _onto(self, state: State, dim: int, atoms: Atoms) -> Iterator[Held]:
        """The ways to split a dimension further, over these atoms: as the minor ones, or in stages as the major ones."""
        held, tilings = state.dims[dim], self.kind.tilings[dim]
        if held is None:
            for number in range(len(tilings)):
                for cuts in self._cuts(tilings[number]) if self.kind.slow.isdisjoint(atoms) else [1]:
                    yield from self._fitting(dim, Held(number, cuts, atoms))
            return
        more = self.workers(atoms)
        if held.cuts == 1 or self.kind.slow.isdisjoint(atoms):
            yield from self._fitting(dim, Held(held.tiling, held.cuts, held.atoms + atoms))
        if held.cuts > 1 and not self.kind.slow.issuperset(atoms):
            return
        if (held.cuts > 1 and held.cuts % more == 0) or (more == 1 and not tilings[held.tiling].is_padded):
            yield from self._fitting(dim, Held(held.tiling, held.cuts // more, atoms + held.atoms))

    def _off(self, state: State, dim: int) -> Iterator[tuple[Atoms, Held | None]]:
        """The atoms that can be taken off a dimension, fewest first, and what is left: the minor ones, or in stages the major ones."""
        held = state.dims[dim]
        if held is None:
            return
        atoms, tiling = held.atoms, self.kind.tilings[dim][held.tiling]
        if tiling.workers:
            yield atoms, None
            return
        for first in range(len(atoms) - 1, 0, -1):
            yield atoms[first:], Held(held.tiling, held.cuts, atoms[:first])
        for last in range(1, len(atoms)):
            apart = self.kind.slow.issuperset(atoms[:last]) and self.kind.slow.isdisjoint(atoms[last:])
            if (self._is_staged(tiling) and apart) or (self.workers(atoms[:last]) == 1 and not tiling.is_padded):
                yield atoms[:last], Held(held.tiling, held.cuts * self.workers(atoms[:last]), atoms[last:])
        yield atoms, None

    def _is_staged(self, tiling: Tiling) -> bool:
        """Whether its pieces may be cut: all of them fall into as many equal parts as there are workers."""
        return bool(self.kind.slow) and not tiling.workers and not tiling.is_padded and tiling.fits(prod(self.kind.sizes))

    def _cuts(self, tiling: Tiling) -> list[int]:
        if not self._is_staged(tiling):
            return [1]
        sizes = [self.kind.sizes[atom] for atom in sorted(self.kind.slow)]
        return sorted({prod(some) for count in range(len(sizes) + 1) for some in combinations(sizes, count)})

    def _fitting(self, dim: int, held: Held) -> Iterator[Held]:
        """`held` itself, if workers can hold equal parts of it, and if it leads to where this goes."""
        key = (dim, held)
        fits = self._known.get(key)
        if fits is None:
            tiling = self.kind.tilings[dim][held.tiling]
            fits = tiling.fits(held.cuts * self.workers(held.atoms))
            if tiling.workers:
                fits = fits and all(pair in self.kind.continued for pair in pairwise(held.atoms))
            self._known[key] = fits
        if fits and (self.kind.ends is None or self._leads(dim, held, *self.kind.ends)):
            yield held

    def _leads(self, dim: int, held: Held, source: State, target: State) -> bool:
        """Whether a split is a part of the target's, or its atoms can go to a dimension of the target together."""
        wanted, before = target.dims[dim], source.dims[dim]
        if wanted is not None and wanted.tiling == held.tiling:
            first = next((i for i in range(len(wanted.atoms)) if wanted.cuts * self.workers(wanted.atoms[:i]) == held.cuts), -1)
            if first >= 0 and wanted.atoms[first : first + len(held.atoms)] == held.atoms:
                return True
        if before is None or before.tiling != held.tiling:
            return False
        runs = [end.atoms[i : i + len(held.atoms)] for end in target.dims if end for i in range(len(end.atoms))]
        return held.cuts == 1 and held.atoms in runs

    def _exchange_all(self) -> None:
        """Add the moves in which whole shards change hands: between all states in which these are the same."""
        alike: dict[tuple[object, ...], list[State]] = {}
        for state in self.states:
            shards = tuple([held and (held.tiling, held.cuts, self.workers(held.atoms)) for held in state.dims])
            alike.setdefault((shards, state.partial), []).append(state)
        for states in alike.values():
            for before, after in permutations(states, 2):
                self.moves += [(self.number[before], move, self.number[after]) for move in self._exchanged(before, after)]

    def _exchanged(self, before: State, after: State) -> Iterator[Edge]:
        pairs = [(a, b) for a, b in zip(before.dims, after.dims, strict=True) if a and b and a != b]
        atoms = sorted({atom for a, b in pairs for atom in (*a.atoms, *b.atoms)})
        if pairs and not any(self._in_conflict(atom, atoms) for atom in atoms):
            yield Edge("permute", tuple(atoms), -1, -1, after)

    def _exchange(self, state: State, wanted: State) -> Iterator[Edge]:
        """The exchange of shards that leads to `wanted` in all dimensions: its atoms first, and then those that must still go."""
        dims: list[Held | None] = []
        ends = [atom for held in wanted.dims if held for atom in held.atoms]
        spare = [atom for held in state.dims if held for atom in held.atoms if atom not in ends]
        for held, end in zip(state.dims, wanted.dims, strict=True):
            if held is None:
                dims.append(None)
                continue
            taken: Atoms = ()
            if end is not None and end.tiling == held.tiling and end.cuts == held.cuts:
                left = self.workers(held.atoms)
                for atom in end.atoms:
                    if left % self.kind.sizes[atom]:
                        break
                    taken, left = (*taken, atom), left // self.kind.sizes[atom]
            for atom in tuple(spare):
                if (self.workers(held.atoms) // self.workers(taken)) % self.kind.sizes[atom] == 0 and self.kind.sizes[atom] > 1:
                    taken = (*taken, atom)
                    spare.remove(atom)
            if self.workers(taken) != self.workers(held.atoms):
                return
            dims.append(Held(held.tiling, held.cuts, taken))
        after = State(tuple(dims), state.partial)
        flat = [atom for held in dims if held for atom in held.atoms]
        if after != state and len(set(flat)) == len(flat) and not after.partial & set(flat):
            yield from self._exchanged(state, after)
