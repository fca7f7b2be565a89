"""Elements that move along one split dimension: who sends what to whom, when the place of each is known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from spmd.placement.layout import Array, pieces
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Split

from .model import Exchange

Run = tuple[int, int, int]
"""``(start, count, step)``: consecutive places."""


@dataclass(frozen=True)
class Round:
    """One permute: ``(source, target)`` pairs, and which of its elements each worker sends, a row each."""

    pairs: tuple[tuple[int, int], ...]
    sent: Array


@dataclass(frozen=True)
class Route:
    """How every worker gets its part: `rounds`, then row r of `taken` says what worker r takes of its own shard followed by
    what each round brought.
    """

    rounds: tuple[Round, ...]
    taken: Array


@dataclass(frozen=True)
class Moves:
    """Element i of the result's dimension is element `places`[i] of the input's, given as runs.

    `source` is the factor of the input's dimension, `target` the factors that the result's is a concatenation of, and `rest` the
    factors of the other dimensions. Called with how they are split, it says what is exchanged.
    """

    places: tuple[Run, ...]
    source: str
    target: tuple[str, ...]
    rest: str

    def __call__(self, splits: Mapping[str, Split], mesh: Mesh) -> tuple[Exchange, ...]:
        """One permute a round, each worker bringing as much as the one that sends the most."""
        route = self.route(splits, mesh)
        return tuple(Exchange("permute", f"{self.rest} {r.sent.shape[1]}") for r in route.rounds)

    def route(self, splits: Mapping[str, Split], mesh: Mesh) -> Route:
        """The route under these splits."""
        there = [splits[f] for f in self.target]
        made = Split(there[0].axes, tuple(s for split in there for s in split.segments))
        return find_route(self.places, splits[self.source], made, mesh)


@lru_cache(maxsize=256)
def find_route(places: tuple[Run, ...], source: Split, target: Split, mesh: Mesh) -> Route:
    """Who sends what, in few rounds: the busiest pairs first, every worker sending and receiving once a round."""
    order = np.concatenate([start + step * np.arange(count) for start, count, step in places])
    workers, width = mesh.axis_size(*source.axes), source.local_size(mesh)
    owner, at = np.zeros(source.size, "int64"), np.zeros(source.size, "int64")
    for worker, start, local, valid in _held(source, mesh):
        owner[start : start + valid] = worker
        at[start : start + valid] = np.arange(local, local + valid)
    taken = np.zeros((workers, target.local_size(mesh)), "int64")
    wanted: dict[tuple[int, int], Array] = {}
    for worker in range(workers):
        needs = [order[start : start + valid] for w, start, _, valid in _held(target, mesh) if w == worker]
        needed = np.unique(np.concatenate(needs))
        for other in range(workers):
            parts = at[needed[owner[needed] == other]]
            if other != worker and parts.size:
                wanted[other, worker] = parts
    rounds, base, arrived = _rounds(wanted, workers), width, {}
    for r in rounds:
        arrived.update(dict.fromkeys(r.pairs, base))
        base += r.sent.shape[1]
    for worker, start, local, valid in _held(target, mesh):
        need = order[start : start + valid]
        mine = at[need].copy()
        for other in range(workers):
            if (other, worker) in arrived:
                here = owner[need] == other
                mine[here] = arrived[other, worker] + np.searchsorted(wanted[other, worker], at[need[here]])
        taken[worker, local : local + valid] = mine
    return Route(tuple(rounds), taken)


def _rounds(wanted: Mapping[tuple[int, int], Array], workers: int) -> list[Round]:
    left = sorted(wanted, key=lambda pair: (-len(wanted[pair]), pair))
    rounds: list[Round] = []
    while left:
        pairs: list[tuple[int, int]] = []
        for source, target in left:
            if all(source != s and target != t for s, t in pairs):
                pairs.append((source, target))
        left = [pair for pair in left if pair not in pairs]
        sent = np.zeros((workers, max(len(wanted[p]) for p in pairs)), "int64")
        for pair in pairs:
            sent[pair[0], : len(wanted[pair])] = wanted[pair]
        rounds.append(Round(tuple(sorted(pairs)), sent))
    return rounds


def _held(split: Split, mesh: Mesh) -> Sequence[tuple[int, int, int, int]]:
    """``(worker, global start, local start, valid elements)`` of every piece."""
    workers = range(mesh.axis_size(*split.axes))
    return [(w, start, local, valid) for w in workers for start, local, valid, _ in pieces(split, mesh, w)]
