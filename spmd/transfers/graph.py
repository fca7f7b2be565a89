"""The shardings of one kind and the moves between them as arrays, and the time of every move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import permutations
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .states import Edge, Held, Kind, State, States

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Time = Callable[[str, tuple[int, ...], int, int], float]
"""The time of a move from its kind, the atoms that it runs over, the bytes that each worker brings, and those that it puts in order."""
Measured = Mapping[tuple[int, int], int]
"""What a worker holds of a dimension by a tiling of it that only the planning sizes tell."""
TilingNumbers = tuple[int, ...]
"""The number of the tiling of each dimension, -1 where it is whole."""
Either = tuple[frozenset[int], ...]
"""The tilings of each dimension in the two shardings of a pair."""


def either_of(source: TilingNumbers, target: TilingNumbers) -> Either:
    """The tilings of the two shardings of a pair: on paths between them, dimensions are split by no others."""
    return tuple([frozenset(pair) - {-1} for pair in zip(source, target, strict=True)])


class Graph:
    """The states of a kind, and its moves as arrays in the order of the states that they start from."""

    def __init__(self, kind: Kind) -> None:
        found = States(kind)
        self.kind, self.states, self.number = kind, found.states, found.number
        moves = sorted(found.moves, key=lambda move: move[0])
        self.before: Ints = np.array([before for before, _, _ in moves], np.int64)
        self.after: Ints = np.array([after for _, _, after in moves], np.int64)
        alike: dict[tuple[str, tuple[int, ...]], int] = {}
        self._called: Ints = np.array([alike.setdefault((m.kind, m.atoms), len(alike)) for _, m, _ in moves], np.int64)
        self._calls = list(alike)
        self._dims = np.array([(move.dim, move.to_dim) for _, move, _ in moves], np.int8).reshape(-1, 2)
        known: dict[tuple[object, ...], _Ends] = {}
        ends = [_ends(kind, self.states[before], move, known) for before, move, _ in moves]
        self._padding: Ints = np.array([end.padding for end in ends], np.int64).reshape(-1, 2)
        self._packed, self._unpacked = np.array([end.is_packed for end in ends], bool), np.array([end.is_unpacked for end in ends], bool)
        self._tiling: Ints = np.array([end.tiling for end in ends], np.int64)
        self._into: Ints = np.array([move.into for _, move, _ in moves], np.int64)
        shares = [[_share(kind, dim, held) for dim, held in enumerate(state.dims)] for state in self.states]
        numbers = [self.tilings(state) for state in range(len(self.states))]
        self._tilings: Ints = np.array(numbers, np.int64).reshape(len(numbers), len(kind.tilings))
        self._shares: Ints = np.array(shares, np.int64).reshape(len(shares), len(kind.tilings), 2)
        self._tiled: dict[Either, Ints] = {}
        self._gathers = np.array([move.kind == "all_gather" for _, move, _ in moves], bool)

    def move(self, number: int) -> Edge:
        """The move of this number. Graphs have many moves and paths few, so that they are objects when somebody asks."""
        kind, atoms = self._calls[self._called[number]]
        dim, to_dim = self._dims[number].tolist()
        return Edge(kind, atoms, dim, to_dim, self.states[self.after[number]])

    def held(self, shape: Sequence[int], item: int, measured: Measured) -> Ints:
        """The bytes that a worker holds in each state of a tensor of this shape, of which an element takes `item` bytes."""
        found = np.full(len(self.states), item, np.int64)
        for dim, size in enumerate(shape):
            of, whole = self._shares[:, dim, 0], self._shares[:, dim, 1]
            local = -(-size * of // whole)
            for number in (tiling for at, tiling in measured if at == dim):
                local[self._tilings[:, dim] == number] = measured[dim, number]
            found *= local
        return found

    def times(self, held: Ints, shape: Sequence[int], measured: Measured, time: Time) -> Floats:
        """The time of each move, of a tensor of this shape of which workers hold so many bytes in each state."""
        before, padding = held[self.before], self._padding
        for (dim, number), local in measured.items():
            padding = padding.copy()
            workers = self.kind.tilings[dim][number].workers
            padding[(self._into == dim) & (self._tiling == number)] = (local * workers, shape[dim]) if shape[dim] else (1, 1)
        brought = before * padding[:, 0] // padding[:, 1]
        ordered = self._packed * (before + brought) + self._unpacked * 2 * held[self.after]
        known: dict[tuple[int, int, int], float] = {}
        found: list[float] = []
        for key in zip(self._called.tolist(), brought.tolist(), ordered.tolist(), strict=True):
            seconds = known.get(key)
            if seconds is None:
                kind, atoms = self._calls[key[0]]
                seconds = known[key] = time(kind, atoms, *key[1:])
            found.append(seconds)
        return np.array(found)

    def tilings(self, state: int) -> TilingNumbers:
        """Those of each dimension, -1 where it is whole."""
        return tuple([held.tiling if held else -1 for held in self.states[state].dims])

    @cached_property
    def kinds(self) -> Ints:
        """A number for the tilings of each state, equal for equal ones."""
        numbers: dict[TilingNumbers, int] = {}
        return np.array([numbers.setdefault(self.tilings(state), len(numbers)) for state in range(len(self.states))], np.int64)

    def tiled(self, either: Either) -> Ints:
        """The states in which each dimension is whole, or split by one of these tilings, in order."""
        if either not in self._tiled:
            allowed = np.ones(len(self.states), bool)
            for dim, numbers in enumerate(either):
                allowed &= self._is_tiled(dim, [-1, *numbers])
            self._tiled[either] = np.flatnonzero(allowed)
        return self._tiled[either]

    def opposite(self, either: Either, end: TilingNumbers) -> Ints:
        """The states that are tiled by `either` together with an end tiled so, by their places among `tiled` states."""
        found = np.ones(len(self.states), bool)
        for dim, (numbers, tiling) in enumerate(zip(either, end, strict=True)):
            found &= self._is_tiled(dim, [other for other in (-1, *numbers) if frozenset((other, tiling)) - {-1} == numbers])
        return np.flatnonzero(found[self.tiled(either)])

    def _is_tiled(self, dim: int, numbers: Sequence[int]) -> NDArray[np.bool_]:
        """Whether a dimension of each state has one of these tilings."""
        wanted = np.zeros(len(self.kind.tilings[dim]) + 1, bool)
        wanted[numbers] = True  # -1, where it is whole, is the last one
        return wanted[self._tilings[:, dim]]

    def between(self, either: Either, gather: bool) -> Ints:
        """The moves between `tiled` states. Without `gather`, none gathers."""
        allowed = np.zeros(len(self.states), bool)
        allowed[self.tiled(either)] = True
        return np.flatnonzero(allowed[self.before] & allowed[self.after] & (gather | ~self._gathers))

    @cached_property
    def renamings(self) -> list[tuple[Ints, Ints]]:
        """What renaming atoms of one size makes of each state, and of each move, for the renamings that leave the graph as it is."""
        kind = self.kind
        order, keys = self._sorted(np.arange(len(self.states)))
        found: list[tuple[Ints, Ints]] = []
        for names in permutations(range(len(kind.sizes))) if kind.ends is None else ():
            if list(names) == sorted(names) or any(size != kind.sizes[name] for size, name in zip(kind.sizes, names, strict=True)):
                continue
            states = np.array([self.number.get(_renamed(state, names), -1) for state in self.states], np.int64)
            if states.min() < 0:
                continue
            renamed, like = self._sorted(states)
            if np.array_equal(keys, like):
                moves = np.empty(len(order), np.int64)
                moves[renamed] = order
                found.append((states, moves))
        return found

    def _sorted(self, states: Ints) -> tuple[Ints, Ints]:
        """The order of moves between `states` (their numbers after a renaming), by ends and then by kind, and these in that order."""
        names = sorted({kind for kind, _ in self._calls})
        kinds = np.array([names.index(kind) for kind, _ in self._calls], np.int64)
        ends = np.array([states[self.before], states[self.after], kinds[self._called], *self._dims.T], np.int64)
        order = np.lexsort(ends[::-1])
        return order, ends[:, order]


def _ends(kind: Kind, before: State, move: Edge, known: dict[tuple[object, ...], _Ends]) -> _Ends:
    """Those of a move, from those that are `known`: they hang on the dimensions that it changes alone."""
    changed = [(before.dims[dim], move.after.dims[dim]) for dim in (move.dim, move.to_dim) if dim >= 0]
    key = (move.kind, move.dim, move.to_dim, *changed)
    if key not in known:
        known[key] = _Ends(kind, before, move)
    return known[key]


class _Ends:
    """What a move finds and leaves of the dimensions that it changes."""

    def __init__(self, kind: Kind, before: State, move: Edge) -> None:
        self.tiling, self.padding, self.is_packed, self.is_unpacked = -1, (1, 1), False, False
        if move.into >= 0:
            held = move.after.dims[move.into]
            assert held is not None
            tiling, self.tiling = kind.tilings[move.into][held.tiling], held.tiling
            is_first = before.dims[move.into] is None
            if is_first and tiling.size:
                self.padding = tiling.padded, tiling.size
            many = len(tiling.pieces) * held.cuts > 1
            self.is_packed = not tiling.symbolic and (many or (is_first and tiling.is_padded))
        if move.kind in ("all_gather", "all_to_all"):
            held = before.dims[move.dim]
            assert held is not None
            tiling = kind.tilings[move.dim][held.tiling]
            many, is_last = len(tiling.pieces) * held.cuts > 1, move.after.dims[move.dim] is None
            self.is_unpacked = not tiling.symbolic and (many or (is_last and tiling.is_padded))


def _renamed(state: State, names: Sequence[int]) -> State:
    """A state with other atoms in the place of its own."""
    dims = [held and Held(held.tiling, held.cuts, tuple([names[atom] for atom in held.atoms])) for held in state.dims]
    return State(tuple(dims), frozenset([names[atom] for atom in state.partial]))


def _share(kind: Kind, dim: int, held: Held | None) -> tuple[int, int]:
    """How much of a dimension a worker holds, as a fraction."""
    if held is None:
        return 1, 1
    tiling = kind.tilings[dim][held.tiling]
    return tiling.padded // prod(kind.sizes[atom] for atom in held.atoms), max(tiling.size, 1)
