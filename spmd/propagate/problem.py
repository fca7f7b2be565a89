"""The decisions of a plan as variables and tables of predicted time, for the solver.

A variable is the sharding of a value, or two: that in which it is kept, and one to which it is converted once for all who take it so. What
an operator adds, with the best of its strategies for each way to hold its operands, is one table over them; only where that table would be
too large is the strategy a variable of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spmd.costs.cost import INFEASIBLE, Cost
from spmd.errors import ShardingError
from spmd.placement.sharding import Sharding
from spmd.placement.spec import Constraint
from spmd.program.graph import PASSING, Graph, Node, Value
from spmd.program.storage import loses_writes
from spmd.rules.strategy import Strategy

from .candidates import Candidates
from .second import second_places, with_made, with_taken
from .solver import Factor, Table

LARGEST_JOINT = 1 << 16
"""Entries of the largest table of one operator over its strategies and all its operands."""


@dataclass(frozen=True)
class _Joint:
    """An operator's best time for each way to hold its operands, and the strategy that has it."""

    least: Table
    best: NDArray[np.intp]


class Problem:
    """The tables of all functions. Variables are numbered: values in the order of the graph, then strategies that stand alone."""

    def __init__(self, graph: Graph, candidates: Candidates, cost: Cost) -> None:
        self.graph, self.candidates, self.cost = graph, candidates, cost
        self.values = [v for v in graph.values if candidates.shardings[v]]
        self.number = {v: i for i, v in enumerate(self.values)}
        self._second = second_places(graph, candidates, cost)
        self.sizes = [len(candidates.shardings[v]) + len(self._second.get(v, ())) for v in self.values]
        self.groups: dict[str, list[Factor]] = {name: [] for name in graph.functions}
        """The tables of each function."""
        self._numbers: dict[tuple[Any, ...], int] = {}
        """What tables hang on, numbered, so that their keys are short: layers repeat, and so do tables."""
        self._types = {v: self._numbered(cost.shape(v), v.dtype) for v in self.values}
        self._kinds = {v: self._numbered(self._types[v], v.may_gather, *self._ways(v)) for v in self.values}
        self._tables: dict[tuple[Any, ...], Table] = {}
        self._by_tables: dict[tuple[Any, ...], _Joint | list[Factor]] = {}
        """What operators add, by the tables that it is made from."""
        self._alike: dict[tuple[Any, ...], _Joint | list[Factor]] = {}
        """The same by class of call and kinds of operands."""
        self._kept: list[list[Table]] = []
        """Tables of single operators; alive, as their ids are in keys."""
        self._alone: dict[Node, int] = {}
        self._joint_of: dict[Node, tuple[tuple[int, ...], _Joint]] = {}
        self._expect()
        self._given_in_two_places()
        for function in graph.functions.values():
            for node in function.nodes:
                self._node(node)
            for value, wanted, _ in function.at_end:
                if wanted is not None:
                    self.groups[function.name] += self._end(value, wanted)
            if (turns := cost.turns(function)) != 1:
                self.groups[function.name] = [(scope, table * turns) for scope, table in self.groups[function.name]]

    def at_end(self, value: Value, wanted: Constraint | Value, choice: Mapping[int, int]) -> Sharding:
        """How a solution returns a value."""
        kept = self.sharding(value, choice)
        return self._returned(value, kept, self._asked(wanted, choice), self.second(value, choice))[1]

    def shardings(self, value: Value) -> list[Sharding]:
        """How a value is kept, for each value of its variable."""
        found = self.candidates.shardings[value]
        return [*found, *(found[i] for i, _ in self._second.get(value, ()))]

    def sharding(self, value: Value, choice: Mapping[int, int]) -> Sharding:
        """How a solution keeps a value."""
        found, at = self.candidates.shardings[value], choice.get(self.number[value], 0)
        return found[at] if at < len(found) else found[self._second[value][at - len(found)][0]]

    def second(self, value: Value, choice: Mapping[int, int]) -> Sharding | None:
        """To what a solution converts a value once for all who take it so, besides how it is kept."""
        at = choice.get(self.number[value], 0) - len(self.candidates.shardings[value])
        return self._second[value][at][1] if at >= 0 else None

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
                for is_output, operands, found in ((False, node.inputs, strategy.inputs), (True, node.outputs, strategy.outputs)):
                    for i, (value, sharding) in enumerate(zip(operands, found, strict=True)):
                        kept = self.sharding(value, choice)
                        if self._between(node, i, is_output, kept, sharding) >= INFEASIBLE:
                            where = f"{value.function}: {value.name!r} and {node.function}: {node.name!r}"
                            what = "no placement obeys all that is asked of them" + _why(value, *node.inputs)
                            raise ShardingError(where, _as_kept(node, value, kept, sharding) or what, way_out)
                if loses_writes(node, strategy, self.cost.mesh):
                    raise ShardingError(
                        f"{node.function}: {node.op} {node.name!r}", f"what it writes in place would be lost as {strategy}", way_out
                    )
                if self._gathered_inside(node, strategy):
                    where = f"{node.function}: {node.name!r}"
                    raise ShardingError(where, f"{node.op} gathers inside what it is given split" + _why(*node.inputs), way_out)
            for value, wanted, why in function.at_end:
                asked = None if wanted is None else self._asked(wanted, choice)
                if asked is not None and self._returned(value, kept := self.sharding(value, choice), asked)[0] >= INFEASIBLE:
                    where = f"{value.function}: {value.name!r}"
                    raise ShardingError(where, f"there is no way from {kept} to {asked}: {why}" + _why(value), way_out)

    def _asked(self, wanted: Constraint | Value, choice: Mapping[int, int]) -> Constraint:
        """What a solution asks of a result."""
        return wanted if isinstance(wanted, Constraint) else Constraint.exactly(self.sharding(wanted, choice))

    def _end(self, value: Value, wanted: Constraint | Value) -> list[Factor]:
        """The time to return a value as is asked, from each way to keep it, to each way in which that is kept which it is to be like."""
        found = self.candidates.shardings[value]
        if isinstance(wanted, Constraint):
            key = ("end", self._kinds[value], wanted)
            if key not in self._tables:
                times = self._conversions(value, found, wanted.among(found), wanted.gather).min(axis=1)
                times = np.where([wanted.allows(s) for s in found], 0.0, times)
                second = [0.0 if wanted.allows(other) else times[i] for i, other in self._second.get(value, ())]
                self._tables[key] = np.append(times, second)
            return [((self.number[value],), self._tables[key])]
        if wanted is value:
            return []
        key = ("same", self._kinds[value], self._kinds[wanted])
        if key not in self._tables:
            ends = self.shardings(wanted)
            self._tables[key] = with_taken(self._conversions(value, found, ends).T, ends, self._second.get(value, ())).T
        return [((self.number[value], self.number[wanted]), self._tables[key])]

    def _expect(self) -> None:
        """Say what will be converted, so that conversions of equal shapes are searched together."""
        transfers, told = self.cost.transfers, set[tuple[object, ...]]()
        for value in self.values:
            found = self.candidates.shardings[value]
            if value.is_tensor and (key := (self._types[value], id(found))) not in told:
                told.add(key)
                transfers.expect(self.cost.shape(value), found)
        for node in (node for function in self.graph.functions.values() for node in function.nodes):
            strategies = self.candidates.strategies[node]
            for i, value in enumerate(node.outputs):
                if value.is_tensor and (key := (self._types[value], id(strategies), i)) not in told:
                    told.add(key)
                    transfers.expect(self.cost.shape(value), [strategy.outputs[i] for strategy in strategies])

    def _numbered(self, *parts: Any) -> int:
        return self._numbers.setdefault(parts, len(self._numbers))

    def _node(self, node: Node) -> None:
        strategies, operands = self.candidates.strategies[node], (*node.inputs, *node.outputs)
        places: list[int] = []
        variables: dict[int, int] = {}
        for v in [self.number[value] for value in operands]:
            # What can be held in one way only is no variable: place -1.
            places.append(-1 if self.sizes[v] == 1 else variables.setdefault(v, len(variables)))
        number = id(strategies)
        alike = (node.call_class, number, *[self._kinds[value] for value in operands], *places, *node.stays)
        made = self._alike.get(alike)
        if made is None:
            made = self._alike[alike] = self._made(node, strategies, number, places, [self.sizes[v] for v in variables])
        factors = self.groups[node.function]
        if isinstance(made, _Joint):
            self._joint_of[node] = (tuple(variables), made)
            factors.append((tuple(variables), made.least))
            return
        at = self._alone[node] = len(self.sizes)
        self.sizes.append(len(strategies))
        numbers = [*variables, at]
        factors += [(tuple([numbers[place] for place in scope]), table) for scope, table in made]

    def _made(
        self, node: Node, strategies: Sequence[Strategy], number: int, places: Sequence[int], sizes: Sequence[int]
    ) -> _Joint | list[Factor]:
        """What an operator adds: one table over its operands, or several over them and its strategy, which is then the last variable."""
        tables = self._tables_of(node, strategies, number)
        key = (*map(id, tables), *places)
        if key not in self._by_tables:  # calls of several classes may have the same tables
            if len(strategies) * math.prod(sizes) > LARGEST_JOINT:
                self._by_tables[key] = _apart(tables, places, len(sizes))
            else:
                total = _total(tables, places, [len(strategies), *sizes])
                self._by_tables[key] = _Joint(total.min(axis=0), total.argmin(axis=0))
            self._kept.append(tables)
        return self._by_tables[key]

    def _tables_of(self, node: Node, strategies: Sequence[Strategy], number: int) -> list[Table]:
        """The times of an operator, and of converting each of its operands; `number` is that of its list of strategies."""
        times = self._times(node, strategies, number)
        if not all(value.may_gather for value in node.inputs):
            times = times + np.array([INFEASIBLE * self._gathered_inside(node, s) for s in strategies])
        if node.stays:
            times = times + np.array([INFEASIBLE * loses_writes(node, s, self.cost.mesh) for s in strategies])
        inputs = [self._edge(node, strategies, number, i, False) for i in range(len(node.inputs))]
        outputs = [self._edge(node, strategies, number, i, True) for i in range(len(node.outputs))]
        return [times, *inputs, *outputs]

    def _times(self, node: Node, strategies: Sequence[Strategy], number: int) -> Table:
        """The time of an operator under each of its strategies, a list of this `number`; equal ones are one table."""
        key = (node.call_class, number)
        if key not in self._tables:
            times = np.array([self.cost.operator(node, s) for s in strategies])
            self._tables[key] = self._tables.setdefault((number, times.tobytes()), times)
        return self._tables[key]

    def _edge(self, node: Node, strategies: Sequence[Strategy], number: int, i: int, is_output: bool) -> Table:
        """The time to convert operand `i` between each way to keep it and what each strategy takes, or makes."""
        value = (node.outputs if is_output else node.inputs)[i]
        key = (number, i, is_output, self._kinds[value], node.staying(i, is_output))
        if key not in self._tables:
            kept = self.candidates.shardings[value]
            taken = [(s.outputs if is_output else s.inputs)[i] for s in strategies]
            distinct = list(dict.fromkeys(taken))  # many strategies take an operand alike
            if node.staying(i, is_output):
                times = np.array([[0.0 if a == b else INFEASIBLE for b in kept] for a in distinct])
            elif is_output:
                times = with_made(self._conversions(value, distinct, kept), self._second.get(value, ()), self._onward(value))
            else:
                times = with_taken(self._conversions(value, kept, distinct).T, distinct, self._second.get(value, ()))
            at = {sharding: row for row, sharding in enumerate(distinct)}
            self._tables[key] = times[[at[sharding] for sharding in taken]]
        return self._tables[key]

    def _onward(self, value: Value) -> list[float]:
        """The times to convert a value to its second placements."""
        kept = self.candidates.shardings[value]
        return [self._convert(value, kept[i], other) for i, other in self._second.get(value, ())]

    def _given_in_two_places(self) -> None:
        """The time to convert what no operator makes to its second placement."""
        functions = self.graph.functions.values()
        made = {value for function in functions for node in function.nodes for value in node.outputs}
        for function in functions:
            read = {value for node in function.nodes for value in node.inputs} | {value for value, _, _ in function.at_end}
            for value in (v for v in self._second if v in read and v not in made):
                times = np.append(np.zeros(len(self.candidates.shardings[value])), self._onward(value))
                self.groups[function.name].append(((self.number[value],), times))

    def _ways(self, value: Value) -> tuple[int, int]:
        """What tells lists of ways to keep a value apart."""
        return id(self.candidates.shardings[value]), id(self._second.get(value, ()))

    def _conversions(self, value: Value, sources: Sequence[Sharding], targets: Sequence[Sharding], gather: bool = True) -> Table:
        """The time to convert a value from each of these to each of those."""
        shape, item = self.cost.shape(value), self.cost.item_bytes(value)
        return self.cost.conversions(shape, item, sources, targets, gather and value.may_gather)

    def _between(self, node: Node, i: int, is_output: bool, kept: Sharding, sharding: Sharding) -> float:
        """The time to convert operand `i` of a node from how it is kept to how it is taken, or from how it is made to how it is kept."""
        if node.staying(i, is_output):
            return 0.0 if kept == sharding else INFEASIBLE
        value = (node.outputs if is_output else node.inputs)[i]
        return self._convert(value, sharding, kept) if is_output else self._convert(value, kept, sharding)

    def _convert(self, value: Value, source: Sharding, target: Sharding, gather: bool = True) -> float:
        return self.cost.convert(self.cost.shape(value), self.cost.item_bytes(value), source, target, gather and value.may_gather)

    def _gathered_inside(self, node: Node, strategy: Strategy) -> bool:
        """Whether an operator gathers within itself as much as it is given of a value that may not be gathered."""
        gathered = [sent.bytes for sent in self.cost.exchanges(node, strategy) if sent.kind == "all_gather"]
        kept = [
            self.cost.local_bytes(self.cost.shape(v), self.cost.item_bytes(v), s)
            for v, s in zip(node.inputs, strategy.inputs, strict=True)
            if not v.may_gather
        ]
        return bool(gathered and kept) and max(gathered) >= min(kept)

    def _returned(self, value: Value, kept: Sharding, wanted: Constraint, second: Sharding | None = None) -> tuple[float, Sharding]:
        """The least time to return a value as is asked, and the sharding in which it is returned."""
        if second is not None and wanted.allows(second) and not wanted.allows(kept):
            return 0.0, second
        least: tuple[float, Sharding] | None = None
        for target in [kept] if wanted.allows(kept) else wanted.among(self.candidates.shardings[value]):
            cost = self._convert(value, kept, target, wanted.gather)
            if least is None or cost < least[0]:
                least = (cost, target)
        assert least is not None
        return least


def _why(*values: Value) -> str:
    """What is asked of values that may not be gathered, for an error."""
    asked = dict.fromkeys(f"{v.name!r} may not be gathered, as {v.reason}" for v in values if not v.may_gather)
    return "".join(f"; {a}" for a in asked)


def _as_kept(node: Node, value: Value, kept: Sharding, sharding: Sharding) -> str:
    """What is wrong where a value would have to be converted that stays where it is; empty where it may be converted."""
    operands = [*node.inputs, *node.outputs]
    if not any(stays and v is value for stays, v in zip(node.stays, operands, strict=False)):
        return ""
    if node.op in PASSING:
        return f"a loop is passed it as it is kept, as {kept}, and has no way to take it so (but as {sharding})"
    does = "writes it in place" if node.writes else "gives a view of it, which is written in place,"
    return f"{node.op} {does} as {sharding}, and it is kept as {kept}: what is written to a copy would be lost"


def _apart(tables: Sequence[Table], places: Sequence[int], alone: int) -> list[Factor]:
    """An operator's tables over its strategy, the variable number `alone`, and over it and each operand."""
    own = tables[0]
    merged: dict[int, Table] = {}
    for table, place in zip(tables[1:], places, strict=True):
        if place < 0:
            own = own + table[:, 0]
        else:
            merged[place] = merged[place] + table if place in merged else table
    return [((alone,), own), *[((alone, place), table) for place, table in merged.items()]]


def _total(tables: Sequence[Table], places: Sequence[int], sizes: Sequence[int]) -> Table:
    """The sum of an operator's tables over ``(strategy, *operands)``."""
    total: Table = np.zeros(sizes)
    total += tables[0].reshape([-1] + [1] * (len(sizes) - 1))
    for table, place in zip(tables[1:], places, strict=True):
        shape = [sizes[0] if d == 0 else sizes[d] if d == place + 1 else 1 for d in range(len(sizes))]
        total += (table[:, 0] if place < 0 else table).reshape(shape)
    return total
