"""A lower bound of a sum of tables, and of what each value of each variable costs at least, by messages between tables and variables.

Kolmogorov, "A new look at reweighted message passing" (2015): sequential reweighted message passing, for pairs TRW-S. Costs are integers,
so that all sums are exact: whatever the messages, what they say is a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .solver import Factor

Costs = NDArray[np.int64]
_Side = tuple[int, int, bool]
"""A table by number, the place of the variable in it, and whether the pass goes on to other variables of it."""
_MOST_KNOWN = 1 << 14
"""Updates that are remembered, before those of former passes are forgotten."""


class Dual:
    """Messages for tables over the variables `order`, which says in what order they are passed. No solution above `limit` is of interest.

    Every pass goes from the first variable to the last, or back. A message is what a table leaves to a variable: of the best that it can do
    for each of its values. Equal tables with equal messages around them get equal ones, which are worked out once, so that the time grows
    with distinct layers.
    """

    def __init__(self, order: Sequence[int], sizes: Mapping[int, int], factors: Sequence[Factor], limit: int) -> None:
        self.order, self.sizes, self._limit = order, sizes, limit
        self._rank = {v: i for i, v in enumerate(order)}
        self._at: dict[int, list[tuple[int, int]]] = {v: [] for v in order}
        """The tables over a variable, and its place in them."""
        self._arrays: dict[bytes, Costs] = {}
        self._scopes: list[tuple[int, ...]] = []
        self._tables: list[Costs] = []
        self._own: dict[int, Costs] = {}
        """The tables over single variables."""
        single: dict[int, list[Costs]] = {v: [] for v in order}
        cut: dict[int, tuple[Costs, Costs]] = {}
        for scope, table in factors:
            if id(table) not in cut:
                cut[id(table)] = (np.minimum(table, limit), table)
            if len(scope) == 1:
                single[scope[0]].append(cut[id(table)][0])
            else:
                for i, v in enumerate(scope):
                    self._at[v].append((len(self._scopes), i))
                self._scopes.append(scope)
                self._tables.append(cut[id(table)][0])
        sums: dict[tuple[int, ...], Costs] = {}
        for v in order:
            key = (sizes[v], *map(id, single[v]))
            if key not in sums:
                sums[key] = sum(single[v], np.zeros(sizes[v], np.int64))
            self._own[v] = sums[key]
        self._cut = list(cut.values())
        self.messages: list[list[Costs]] = [[self._one(np.zeros(sizes[v], np.int64)) for v in scope] for scope in self._scopes]
        self._known: dict[tuple[int, ...], list[Costs]] = {}
        self._passes = [self._steps(list(order), 1), self._steps(list(reversed(order)), -1)]
        self._next = 0
        self.work = 0
        """Entries of tables that were gone through."""

    def run(self, passes: int) -> None:
        """Go through all variables so many times, forth and back in turn."""
        for _ in range(passes):
            for v, shares, sides, alike in self._passes[self._next]:
                self._update(v, shares, sides, alike)
            self._next = 1 - self._next
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
                self._arrays = {m.tobytes(): m for messages in self.messages for m in messages}

    def bound(self) -> int:
        """What no solution goes below (if there is one below the limit)."""
        return sum(int(self._belief(v).min()) for v in self.order) + sum(self._least())

    def regrets(self) -> dict[int, Costs]:
        """For each value of each variable, what a solution with it costs at least above `bound`."""
        least = self._least()
        found: dict[int, Costs] = {}
        known: dict[tuple[int, ...], Costs] = {}
        for v in self.order:
            key = (id(self._own[v]), *[k for f, i in self._at[v] for k in (id(self._tables[f]), i, *map(id, self.messages[f]))])
            if key not in known:
                told = self._own[v] + sum((self._message(f, i) for f, i in self._at[v]), np.zeros(self.sizes[v], np.int64))
                known[key] = told - (int(self._belief(v).min()) + sum(least[f] for f, _ in self._at[v]))
            found[v] = known[key]
        return found

    def rounded(self) -> dict[int, int]:
        """A choice: in the order of the next pass each variable takes what is best with those before it, as far as messages tell the rest."""
        chosen: dict[int, int] = {}
        known: dict[tuple[int, ...], int] = {}
        for v, _, sides, alike in self._passes[self._next]:
            others = [(f, i, j, chosen.get(u, -1)) for f, i, _ in sides for j, u in enumerate(self._scopes[f]) if j != i]
            key = (alike, *[at if at >= 0 else -id(self.messages[f][j]) for f, _, j, at in others])
            if key not in known:
                told = self._own[v].copy()
                for f, i, _ in sides:
                    told += self._message_given(f, i, {j: at for g, _, j, at in others if g == f and at >= 0})
                known[key] = int(told.argmin())
            chosen[v] = known[key]
        return chosen

    def _message_given(self, f: int, i: int, chosen: Mapping[int, int]) -> Costs:
        """As `_message`, with some of the other variables, by their place, at chosen values."""
        table, messages = self._tables[f], self.messages[f]
        for j in range(table.ndim - 1, -1, -1):
            if j in chosen:
                table = table.take(chosen[j], axis=j)
            elif j != i:
                table = (table - messages[j].reshape(-1, *[1] * (table.ndim - 1 - j))).min(axis=j)
        return table

    def _belief(self, v: int) -> Costs:
        """What a variable has been told of its values."""
        return sum((self.messages[f][i] for f, i in self._at[v]), self._own[v])

    def _least(self) -> list[int]:
        """The least of each table without what it told its variables."""
        known: dict[tuple[int, ...], int] = {}
        found: list[int] = []
        for f, (table, messages) in enumerate(zip(self._tables, self.messages, strict=True)):
            key = (id(table), *map(id, messages))
            if key not in known:
                known[key] = int((self._message(f, 0) - messages[0]).min())
            found.append(known[key])
        return found

    def _message(self, f: int, i: int) -> Costs:
        """All that table `f` can tell its variable number `i`: for each value its least entry, without what others were told."""
        table, messages = self._tables[f], self.messages[f]
        self.work += table.size
        for j in range(table.ndim - 1, -1, -1):
            if j != i:
                table = (table - messages[j].reshape(-1, *[1] * (table.ndim - 1 - j))).min(axis=j)
        return table

    def _steps(self, order: Sequence[int], sign: int) -> list[tuple[int, int, list[_Side], int]]:
        """For each variable of a pass: the number of shares of what it knows, its tables, and a number for all that are alike."""
        rank = {v: sign * i for v, i in self._rank.items()}
        ends = [(min(rank[v] for v in scope), max(rank[v] for v in scope)) for scope in self._scopes]
        numbers: dict[tuple[Any, ...], int] = {}
        found: list[tuple[int, int, list[_Side], int]] = []
        for v in order:
            sides = [(f, i, ends[f][1] > rank[v]) for f, i in self._at[v]]
            shares = max(sum(on for _, _, on in sides), sum(ends[f][0] < rank[v] for f, _, _ in sides), 1)
            alike = (sign, id(self._own[v]), shares, *[(id(self._tables[f]), i, on) for f, i, on in sides])
            found.append((v, shares, sides, sign * (1 + numbers.setdefault(alike, len(numbers)))))
        return found

    def _update(self, v: int, shares: int, sides: Sequence[_Side], alike: int) -> None:
        """Tell a variable all that its tables know, and give a share of it back to each table that the pass comes to yet."""
        key = (alike, *[id(m) for f, i, _ in sides for j, m in enumerate(self.messages[f]) if j != i])
        told = self._known.get(key)
        if told is None:
            told = [self._message(f, i) for f, i, _ in sides]
            belief = sum(told, self._own[v])
            share = (belief - belief.min()) // shares
            told = [message - share if on else message for message, (_, _, on) in zip(told, sides, strict=True)]
            told = self._known[key] = [self._one(np.minimum(message - message.min(), self._limit)) for message in told]
        for message, (f, i, _) in zip(told, sides, strict=True):
            self.messages[f][i] = message

    def _one(self, message: Costs) -> Costs:
        """Equal messages are one object, so that identity is equality."""
        return self._arrays.setdefault(message.tobytes(), message)
