"""Costs in whole units, so that sums of them are exact: what is equal is equal, in whatever order it was added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spmd.costs.cost import INFEASIBLE

from .solver import Factor, Limits, Table

_BITS = 50
"""The bits of the sum of the largest costs of all tables; the others of an int64 are room for sums of what cannot be done."""
_TIMES = 16
"""How many things that cannot be done are told from more."""


class Units:
    """Groups of tables of seconds as tables of integers; what takes `INFEASIBLE` or more is `infinite`, more than all else together."""

    infinite = 1 << (_BITS + 1)

    def __init__(self, groups: Sequence[Sequence[Factor]]) -> None:
        self._given = groups
        most: dict[int, float] = {}
        total = 0.0
        for factors in groups:
            for _, table in factors:
                if id(table) not in most:
                    most[id(table)] = float(np.max(table, where=table < INFEASIBLE, initial=0.0))
                total += most[id(table)]
        self.unit = total / (1 << _BITS) or 1.0
        """Seconds of one unit."""
        whole: dict[int, Table] = {}
        for factors in groups:
            for _, table in factors:
                if id(table) not in whole:
                    whole[id(table)] = self._whole(table)
        self.groups: list[list[Factor]] = [[(scope, whole[id(table)]) for scope, table in factors] for factors in groups]

    def seconds(self, units: Any) -> Any:
        """Units as seconds; what cannot be done takes `INFEASIBLE`."""
        return np.where(np.asarray(units) >= self.infinite, INFEASIBLE, np.asarray(units) * self.unit)

    def evaluate(self, choice: Mapping[int, int]) -> float:
        """The seconds that a choice takes."""
        return sum([float(table[tuple([choice[v] for v in scope])]) for factors in self._given for scope, table in factors])

    def cut(self, limits: Limits) -> Limits:
        """The limits of an elimination over these tables."""
        return replace(limits, cost=self.infinite * _TIMES)

    def _whole(self, table: Table) -> Table:
        possible = table < INFEASIBLE
        return np.where(possible, np.rint(np.where(possible, table, 0.0) / self.unit), self.infinite).astype(np.int64)
