"""The decisions of a plan as variables and tables of predicted time, for the solver.

A variable is the sharding of a value. What an operator adds, with the best of its strategies for each way to hold its operands, is one
table over them; only where that table would be too large is the strategy a variable of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardingError
from ..expression import Rule
from ..graph import Graph, Node, Value
from ..sharding import Sharding
from ..strategy import Strategy
from .candidates import Candidates
from .cost import INFEASIBLE, Cost
from .solver import Factor, Table

LARGEST_JOINT = 1 << 16
"""Entries of the largest table of one operator over its strategies and all its operands."""


@dataclass(frozen=True)
class _Joint:
    """An operator's best time for each way to hold its operands, and the strategy that has it."""

    least: Table
    best: NDArray[np.intp]
    parts: tuple[Table, ...]
    """What it was made from; alive, as their ids are its key."""


class Problem:
    """The tables of all functions. Variables are numbered: values in the order of the graph, then strategies that stand alone."""

    def __init__(self, graph: Graph, candidates: Candidates, cost: Cost) -> None:
        self.graph, self.candidates, self.cost = graph, candidates, cost
        self.values = [v for v in graph.values if candidates.shardings[v]]
        self.number = {v: i for i, v in enumerate(self.values)}
        self.sizes = [len(candidates.shardings[v]) for v in self.values]
        self.groups: dict[str, list[Factor]] = {name: [] for name in graph.functions}
        """The tables of each function."""
        self._tables: dict[tuple[Any, ...], Table] = {}
        self._joints: dict[tuple[Any, ...], _Joint] = {}
        self._alone: dict[Node, int] = {}
        self._joint_of: dict[Node, tuple[tuple[int, ...], _Joint]] = {}
        for function in graph.functions.values():
            for node in function.nodes:
                self._node(node)
            for value, wanted, _ in function.at_end:
                if wanted is not None:
                    costs = [self._convert(value, s, wanted) for s in candidates.shardings[value]]
                    self.groups[function.name].append(((self.number[value],), np.array(costs)))

    def sharding(self, value: Value, choice: Mapping[int, int]) -> Sharding:
        """How a solution keeps a value."""
        return self.candidates.shardings[value][choice.get(self.number[value], 0)]

    def strategy(self, node: Node, choice: Mapping[int, int]) -> Strategy:
        """How a solution runs an operator."""
        if node in self._alone:
            at = choice[self._alone[node]]
        else:
            variables, joint = self._joint_of[node]
            at = joint.best[tuple([choice[v] for v in variables])]
        return self.candidates.strategies[node][at]

    def check_feasible(self, choice: Mapping[int, int], cost: float) -> None:
        """Raise `ShardingError` naming the operator and the value where a solution asks for what cannot be done."""
        if cost < INFEASIBLE:
            return
        way_out = "Loosen the specs of the values around them."
        for function in self.graph.functions.values():
            for node in function.nodes:
                strategy = self.strategy(node, choice)
                wanted = [(v, self.sharding(v, choice), s) for v, s in zip(node.inputs, strategy.inputs, strict=True)]
                made = [(v, s, self.sharding(v, choice)) for v, s in zip(node.outputs, strategy.outputs, strict=True)]
                for value, source, target in (*wanted, *made):
                    if self._convert(value, source, target) >= INFEASIBLE:
                        where = f"{value.function}: {value.name!r} and {node.function}: {node.name!r}"
                        raise ShardingError(where, "no placement obeys all that is asked of them", way_out)
            for value, wanted, _ in function.at_end:
                if wanted is not None and self._convert(value, self.sharding(value, choice), wanted) >= INFEASIBLE:
                    where = f"{value.function}: {value.name!r}"
                    raise ShardingError(where, f"there is no way from what it is to {wanted}", way_out)

    def _node(self, node: Node) -> None:
        strategies = self.candidates.strategies[node]
        tables: list[Table] = [self._times(node, strategies)]
        places: list[int] = []
        variables: dict[int, int] = {}
        for operands, is_output in ((node.inputs, False), (node.outputs, True)):
            for i, value in enumerate(operands):
                v = self.number[value]
                # What can be held in one way only is no variable: place -1.
                places.append(-1 if self.sizes[v] == 1 else variables.setdefault(v, len(variables)))
                tables.append(self._edge(node.rule, strategies, i, is_output, value))
        sizes = [self.sizes[v] for v in variables]
        if len(strategies) * math.prod(sizes) > LARGEST_JOINT:
            self._stand_alone(node, tables, places, list(variables))
            return
        key = (*map(id, tables), *places)
        joint = self._joints.get(key)
        if joint is None:
            total = _total(tables, places, [len(strategies), *sizes])
            joint = self._joints[key] = _Joint(total.min(axis=0), total.argmin(axis=0), tuple(tables))
        self._joint_of[node] = (tuple(variables), joint)
        self.groups[node.function].append((tuple(variables), joint.least))

    def _stand_alone(self, node: Node, tables: Sequence[Table], places: Sequence[int], variables: Sequence[int]) -> None:
        """The strategy of `node` as a variable, with one table for each operand."""
        at = self._alone[node] = len(self.sizes)
        self.sizes.append(len(tables[0]))
        factors = self.groups[node.function]
        own = tables[0]
        merged: dict[int, Table] = {}
        for table, place in zip(tables[1:], places, strict=True):
            if place < 0:
                own = own + table[:, 0]
            else:
                merged[place] = merged[place] + table if place in merged else table
        factors.append(((at,), own))
        factors += [((at, variables[place]), table) for place, table in merged.items()]

    def _times(self, node: Node, strategies: Sequence[Strategy]) -> Table:
        shapes = tuple([self.cost.shape(v) for v in (*node.inputs, *node.outputs)])
        rule = node.rule
        key = ("time", tuple(map(id, strategies)), shapes, rule.work, rule.sparse, rule.uncounted, tuple(rule.forms.items()))
        if key not in self._tables:
            self._tables[key] = np.array([self.cost.operator(node, s) for s in strategies])
        return self._tables[key]

    def _edge(self, rule: Rule, strategies: Sequence[Strategy], i: int, is_output: bool, value: Value) -> Table:
        shardings = self.candidates.shardings[value]
        key = (tuple(map(id, strategies)), tuple(map(id, shardings)), i, is_output, self.cost.shape(value), value.dtype)
        if key not in self._tables:
            rows = [
                [self._convert(value, s.outputs[i], d) if is_output else self._convert(value, d, s.inputs[i]) for d in shardings]
                for s in strategies
            ]
            self._tables[key] = np.array(rows)
        return self._tables[key]

    def _convert(self, value: Value, source: Sharding, target: Sharding) -> float:
        return self.cost.convert(self.cost.shape(value), self.cost.item_bytes(value), source, target)


def _total(tables: Sequence[Table], places: Sequence[int], sizes: Sequence[int]) -> Table:
    """The sum of an operator's tables over ``(strategy, *operands)``."""
    total: Table = np.zeros(sizes)
    total += tables[0].reshape([-1] + [1] * (len(sizes) - 1))
    for table, place in zip(tables[1:], places, strict=True):
        shape = [sizes[0] if d == 0 else sizes[d] if d == place + 1 else 1 for d in range(len(sizes))]
        total += (table[:, 0] if place < 0 else table).reshape(shape)
    return total
