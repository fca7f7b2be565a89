"""A lower bound of a sum of tables, and of what each value of each variable costs at least, by messages between tables and variables.

Kolmogorov, "A new look at reweighted message passing" (2015): sequential reweighted message passing, for pairs TRW-S. Costs are integers,
so that all sums are exact: whatever the messages, what they say is a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .solver import Factor

Costs: TypeAlias = NDArray[np.int64]
Domains: TypeAlias = Mapping[int, NDArray[np.intp]]
"""The values of a variable that are left, of those that lost some; equal ones are one object."""
_Side = tuple[int, int, bool]
"""A table by number, the place of the variable in it, and whether the pass goes on to other variables of it."""
_MOST_KNOWN = 1 << 14
"""Updates that are remembered, before those of former passes are forgotten."""


class Dual:
    """Messages for tables over the variables `order`, which says in what order they are passed. No solution above `limit` is of interest.

    Every pass goes from the first variable to the last, or back. A message is what a table leaves to a variable: of the best that it can do
    for each of its values. Equal tables with equal messages around them get equal ones, which are worked out once.
    """

    def __init__(self, order: Sequence[int], sizes: Mapping[int, int], factors: Sequence[Factor], limit: int) -> None:
        self.order, self.sizes, self._limit = list(order), dict(sizes), limit
        self.work = 0
        """Entries of tables that were gone through."""
        self._arrays: dict[bytes, Costs] = {}
        self._at: dict[int, list[tuple[int, int]]] = {v: [] for v in order}
        """The tables over a variable, and its place in them."""
        self._scopes: list[tuple[int, ...]] = []
        self._tables: list[Costs] = []
        single: dict[int, list[Costs]] = {v: [] for v in order}
        cut: dict[int, Costs] = {}
        for scope, table in factors:
            if id(table) not in cut:
                cut[id(table)] = np.minimum(table, limit)
            if len(scope) == 1:
                single[scope[0]].append(cut[id(table)])
            else:
                for i, v in enumerate(scope):
                    self._at[v].append((len(self._scopes), i))
                self._scopes.append(scope)
                self._tables.append(cut[id(table)])
        self._own = {v: self._one(sum(single[v], np.zeros(sizes[v], np.int64))) for v in order}
        """The tables over single variables."""
        self.messages = [[self._one(np.zeros(sizes[v], np.int64)) for v in scope] for scope in self._scopes]
        self._next = 0
        self._begin()

    def run(self, passes: int) -> None:
        """Go through all variables so many times, forth and back in turn."""
        for _ in range(passes):
            for v, shares, sides, alike in self._passes[self._next]:
                self._update(v, shares, sides, alike)
            self._next = 1 - self._next
            if len(self._known) > _MOST_KNOWN:
                self._forget()

    def look(self) -> tuple[int, dict[int, Costs]]:
        """What no solution goes below (if there is one below the limit), and what a solution with each value costs at least above that."""
        least = self._least()
        beliefs = {v: int(sum((self.messages[f][i] for f, i in self._at[v]), self._own[v]).min()) for v in self.order}
        found: dict[int, Costs] = {}
        known: dict[tuple[int, ...], Costs] = {}
        for v in self.order:
            key = (id(self._own[v]), *[k for f, i in self._at[v] for k in (id(self._tables[f]), i, *map(id, self.messages[f]))])
            if key not in known:
                told = sum((self._message(f, i) for f, i in self._at[v]), self._own[v])
                known[key] = told - (beliefs[v] + sum(least[f] for f, _ in self._at[v]))
            found[v] = known[key]
        return sum(beliefs.values()) + sum(least), found

    def rounded(self) -> dict[int, int]:
        """A choice: in the order of the next pass, the best for each variable with those before it and what messages tell of the rest."""
        chosen: dict[int, int] = {}
        known: dict[tuple[int, ...], int] = {}
        for v, _, sides, alike in self._passes[self._next]:
            given = [{j: chosen[u] for j, u in enumerate(self._scopes[f]) if u in chosen} for f, _, _ in sides]
            key = (
                alike,
                *[
                    at[j] if j in at else -id(m)
                    for (f, i, _), at in zip(sides, given, strict=True)
                    for j, m in enumerate(self.messages[f])
                    if j != i
                ],
            )
            if key not in known:
                told = sum((self._message(f, i, at) for (f, i, _), at in zip(sides, given, strict=True)), self._own[v])
                known[key] = int(told.argmin())
            chosen[v] = known[key]
        return chosen

    def restrict(self, domains: Domains) -> None:
        """Leave these values only, by their numbers among those that there are now; what has been told stays."""
        tables: dict[tuple[int, ...], Costs] = {}
        messages: dict[tuple[int, int], Costs] = {}

        def part(costs: Costs, v: int) -> Costs:
            if v not in domains:
                return costs
            key = (id(costs), id(domains[v]))
            return messages[key] if key in messages else messages.setdefault(key, costs[domains[v]])

        self._forget()
        for f, (scope, table) in enumerate(zip(self._scopes, self._tables, strict=True)):
            if any(v in domains for v in scope):
                axes = [domains.get(v) for v in scope]
                key = (id(table), *map(id, axes))
                if key not in tables:
                    index = np.ix_(*[np.arange(n) if a is None else a for a, n in zip(axes, table.shape, strict=True)])
                    tables[key] = np.ascontiguousarray(table[index])
                self._tables[f] = tables[key]
                self.messages[f] = [part(m, v) for v, m in zip(scope, self.messages[f], strict=True)]
        self._own = {v: part(own, v) for v, own in self._own.items()}
        self.sizes.update({v: len(values) for v, values in domains.items()})
        self._begin()

    def _begin(self) -> None:
        self._forget()
        self._own = {v: self._one(own) for v, own in self._own.items()}
        self.messages = [list(map(self._one, m)) for m in self.messages]
        self._passes = [self._steps(self.order, 1), self._steps(self.order[::-1], -1)]

    def _forget(self) -> None:
        self._known: dict[tuple[int, ...], list[Costs]] = {}
        used = {id(a): a for arrays in (self._own.values(), *self.messages) for a in arrays}
        self._arrays = {a.tobytes(): a for a in used.values()}

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

    def _message(self, f: int, i: int, chosen: Mapping[int, int] | None = None) -> Costs:
        """All that table `f` can tell its variable number `i`: for each value its least entry, without what others were told.

        Other variables may be `chosen`: they have a value, by their place.
        """
        table: Costs = self._tables[f]
        messages = self.messages[f]
        self.work += table.size
        for j in range(table.ndim - 1, -1, -1):
            if chosen and j in chosen:
                table = np.asarray(table.take(chosen[j], axis=j))
            elif j != i:
                table = np.asarray((table - messages[j].reshape(-1, *[1] * (table.ndim - 1 - j))).min(axis=j))
        return table

    def _steps(self, order: Sequence[int], sign: int) -> list[tuple[int, int, list[_Side], int]]:
        """What a pass does at each variable: the number of shares of what it knows, its tables, and a number for all that are alike."""
        rank = {v: i for i, v in enumerate(order)}
        ends = [(min(ranks), max(ranks)) for ranks in ([rank[v] for v in scope] for scope in self._scopes)]
        numbers: dict[tuple[object, ...], int] = {}
        found: list[tuple[int, int, list[_Side], int]] = []
        for v in order:
            sides = [(f, i, ends[f][1] > rank[v]) for f, i in self._at[v]]
            shares = max(sum(on for _, _, on in sides), sum(ends[f][0] < rank[v] for f, _, _ in sides), 1)
            alike = (id(self._own[v]), shares, *[(id(self._tables[f]), i, on) for f, i, on in sides])
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
        """Equal messages are one object, so that identity is equality; it is a view of its key, and cannot be written."""
        key = message.tobytes()
        found = self._arrays.get(key)
        if found is None:
            found = self._arrays[key] = np.frombuffer(key, np.int64)
        return found
