"""Which values are made again, where a plan holds more than fits: bytes have a price, as they have in `budget`, and so has time.

When the most is held, whatever is read later is held, or made again of what is held or made again itself. At a price for each byte, the
cheapest such choice is a sum of small tables, which the search of placements solves to the optimum. The price rises until what is left
fits; between two prices, the values that are made first are made again first. Then everything is planned anew, and counted as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from spmd.costs.cost import INFEASIBLE, Cost
from spmd.program.again import Again, name_of
from spmd.program.graph import Graph, Node, Value
from spmd.program.storage import VIEWS
from spmd.realize.prices import CostPrices
from spmd.realize.write import realize

from .budget import Fit
from .decide import Decision, decide
from .decided import decided_by
from .held import Holding, Late
from .memory import Usage
from .memory_error import gigabytes
from .search import Search
from .solver import Factor

Remade = Callable[[Again], Graph]
"""The graph in which these values are made again."""
_MOST_MOMENTS = 8
"""How many moments at which too much is held are looked at."""
_MOST_STAGES = 4
"""Of those, where the leanest is looked for: the first of them."""
_PRICES, _RISE, _HALVINGS = 9, 6.0, 4
"""How often the price rises, by how much, and how often the last rise is halved."""
_PARTS = 6
"""Into how many parts what is made again at one price more than at a lower one is cut."""
_TRIES = 3
"""How often a choice that does not fit when it is planned is made anew for less memory."""
_UNREAD, _HELD, _AGAIN = 0, 1, 2


def decide_again(given: Graph, cost: Cost, remade: Remade, asked: Again) -> tuple[Graph, Decision, dict[str, str]]:
    """The fastest plan found that fits, the graph that it is of, and what is made again in that: what is `asked`, and what must be.

    Raises `ShardingError` where nothing fits.
    """
    graph = remade(asked)
    fastest = decide(graph, cost)
    if cost.memory is None:
        return graph, fastest, dict(asked)
    usage = Usage(fastest.problem, fastest.solution.choice)
    if usage.peak <= cost.memory:
        return graph, fastest, dict(asked)
    names = {node.outputs[0].path for f in given.functions.values() for node in f.nodes if node.outputs}
    options = _Options(fastest, usage, names, cost.memory)
    target = cost.memory
    for _ in range(_TRIES if options.holdings else 0):
        found, fits = options.choice(target)
        if not fits:
            break
        again = {**found, **asked}
        other = remade(again)
        decision = decide(other, cost)
        held = Usage(decision.problem, decision.solution.choice)
        if held.peak <= cost.memory:
            alone = Fit(graph, cost, cost.memory, fastest, usage, decision.solution.cost).run()
            if alone is not None:
                return graph, alone, dict(asked)
            return other, _noted(decision, fastest, usage.peak, held.peak, len(found)), again
        target -= 2 * (held.peak - cost.memory)
    return _both(graph, cost, remade, asked, fastest, usage, options)


def _both(
    graph: Graph, cost: Cost, remade: Remade, asked: Again, fastest: Decision, usage: Usage, options: _Options
) -> tuple[Graph, Decision, dict[str, str]]:
    """The fastest plan that fits by its placement, as it is or with all made again that makes the plan hold less."""
    assert cost.memory is not None
    found = options.leanest()
    made: tuple[Graph, Decision, dict[str, str]] | None = None
    searches: list[Fit] = []
    limit = np.inf
    if found:
        again = {**found, **asked}
        other = remade(again)
        decision = decide(other, cost)
        held = Usage(decision.problem, decision.solution.choice)
        searches.append(Fit(other, cost, cost.memory, decision, held))
        least = decision if held.peak <= cost.memory else searches[0].run()
        if least is not None:
            held = Usage(least.problem, least.solution.choice)
            made = other, _noted(least, fastest, usage.peak, held.peak, len(found)), again
            limit = np.nextafter(least.solution.cost, np.inf)
    searches.append(Fit(graph, cost, cost.memory, fastest, usage, limit))
    alone = searches[-1].run()
    if alone is not None:
        return graph, alone, dict(asked)
    if made is None:
        raise min(searches, key=lambda search: search.leanest.peak).error(proven=not found)
    return made


def _noted(decision: Decision, fastest: Decision, before: int, now: int, count: int) -> Decision:
    """A decision that says what is made again, and what it costs."""
    times = f"{decision.solution.cost * 1e6:.1f} us, not {fastest.solution.cost * 1e6:.1f} us"
    note = f"{count} values are made again: a worker holds {gigabytes(now)}, not {gigabytes(before)}, and it costs {times}"
    return replace(decision, notes=[*decision.notes, note])


class _Options:
    """What can be made again in the functions of a plan that hold too much."""

    def __init__(self, decision: Decision, usage: Usage, names: set[str], budget: float) -> None:
        self.usage, self._names, self._resident = usage, names, usage.weights + usage.cache
        decided, prices = decided_by(decision.problem, decision.solution.choice), CostPrices(decision.problem.cost)
        self._price = max(decision.solution.cost, 1e-9) / max(usage.peak, 1)
        self._solved: dict[tuple[str, int, float], dict[Node, int]] = {}
        self.holdings = [
            Holding(usage, function, realize(function, decided, prices))
            for name, function in decision.problem.graph.functions.items()
            if not function.is_loop and self._resident + usage.timelines[name].peak > budget
        ]

    def choice(self, budget: float) -> tuple[dict[str, str], bool]:
        """What is made again so that no function holds more than this, and whether that is so; else less than could be."""
        found: dict[str, str] = {}
        fits = True
        for holding in self.holdings:
            late = self._fitting(holding, budget - self._resident)
            fits &= holding.held(late).bytes <= budget - self._resident
            found |= self._named(holding, late)
        return found, fits

    def leanest(self) -> dict[str, str]:
        """What is made again so that each function holds as little as it can, of what is looked at."""
        found: dict[str, str] = {}
        for holding in self.holdings:
            least, peak = dict[Node, int](), holding.held({}).bytes
            before: list[dict[Node, int]] = []
            for price in self._prices():
                stages = list(islice(self._stages(holding, price, 0), _MOST_STAGES))
                for i, late in enumerate(stages):
                    for some in _parts(holding, before[i] if i < len(before) else {}, late):
                        if (held := holding.held(some).bytes) < peak:
                            least, peak = some, held
                before = stages
            found |= self._named(holding, least)
        return found

    def _named(self, holding: Holding, late: Late) -> dict[str, str]:
        """By name, as the module has it without what is asked to be made again."""
        after = {at: next(n for n in holding.nodes[at:] if not n.outputs or name_of(n) in self._names) for at in set(late.values())}
        return {node.outputs[0].path: name_of(after[at]) for node, at in late.items()}

    def _fitting(self, holding: Holding, budget: float) -> dict[Node, int]:
        """What is made again in one function."""
        below: dict[Node, int] = {}
        for price in self._prices():
            late = self._at(holding, price, budget)
            for some in _parts(holding, below, late):
                if holding.held(some).bytes <= budget:
                    return self._between(holding, budget, below, late, price, some)
            below = late
        return below

    def _prices(self) -> Iterator[float]:
        for i in range(_PRICES):
            yield self._price * _RISE ** (i - _PRICES // 2)

    def _between(
        self, holding: Holding, budget: float, below: dict[Node, int], late: dict[Node, int], price: float, found: dict[Node, int]
    ) -> dict[Node, int]:
        """What takes the least time of what fits: `found`, or what is made again at prices between the two, and parts of that."""
        low, high = price / _RISE, price
        for _ in range(_HALVINGS):
            middle = (low * high) ** 0.5
            some = self._at(holding, middle, budget)
            fitting = [part for part in _parts(holding, below, some) if holding.held(part).bytes <= budget]
            found = min(found, *fitting, key=lambda part: holding.held(part).seconds) if fitting else found
            low, high, below = (low, middle, below) if fitting else (middle, high, some)
        return found

    def _at(self, holding: Holding, price: float, budget: float) -> dict[Node, int]:
        """What is made again at a price for each byte, whenever too much is held."""
        return list(self._stages(holding, price, budget))[-1]

    def _stages(self, holding: Holding, price: float, budget: float) -> Iterator[dict[Node, int]]:
        """The same after each moment at which too much is held: nothing at first."""
        late: dict[Node, int] = {}
        seen: set[int] = set()
        yield late
        while (held := holding.held(late)).bytes > budget and held.at not in seen and len(seen) < _MOST_MOMENTS:
            seen.add(held.at)
            key = (holding.function.name, held.at, price)
            if key not in self._solved:
                self._solved[key] = self._solve(holding, held.at, price)
            late = {**self._solved[key], **late}
            yield late

    def _solve(self, holding: Holding, moment: int, price: float) -> dict[Node, int]:
        """The cheapest choice of what is held while operator `moment` runs, and what is made again after it."""
        end = len(holding.nodes)
        if moment + 1 >= end:
            return {}
        returned = set(holding.function.returns)
        needed = {holding.makers[v] for node in holding.nodes[moment + 1 :] for v in node.inputs if v in holding.makers}
        needed |= {holding.makers[v] for v in returned if v in holding.makers}
        waiting = [node for node in needed if holding.at[node] <= moment]
        number: dict[Node, int] = {}
        factors: list[Factor] = []
        while waiting:
            node = waiting.pop()
            if node in number:
                continue
            number[node] = len(number)
            waiting += [holding.makers[v] for v in node.inputs if v in holding.makers]
        for node, i in number.items():
            stays = not holding.can(node) or node.outputs[0].path not in self._names or not returned.isdisjoint(node.outputs)
            table = [INFEASIBLE if node in needed else 0.0, price * sum(map(holding.bytes.__getitem__, _tensors(node)))]
            factors.append(((i,), np.array([*table, INFEASIBLE if stays else holding.seconds[holding.at[node]]])))
            for before in dict.fromkeys(holding.makers[v] for v in node.inputs if v in holding.makers):
                factors.append(((i, number[before]), _OF))
        choice = Search([3] * len(number), [factors]).run().choice if number else {}
        again = {node for node, i in number.items() if choice.get(i, _UNREAD) == _AGAIN}
        for node in holding.nodes:  # a view of what is held is there
            if node in again and node.op in VIEWS and holding.makers.get(node.inputs[0]) not in again:
                again.remove(node)
        return dict.fromkeys((node for node in holding.nodes if node in again), moment + 1)


def _parts(holding: Holding, below: dict[Node, int], late: dict[Node, int]) -> Iterator[dict[Node, int]]:
    """What is made again at a price, and at a lower one with parts of that: values that are made first are the first to be made again."""
    more = sorted((node for node in late if node not in below), key=holding.at.__getitem__)
    for part in range(1, _PARTS):
        some = more[: len(more) * part // _PARTS]
        yield {**below, **{node: late[node] for node in some}}
    yield late


_OF = np.zeros((3, 3))
"""What is made again is made of what is held or made again."""
_OF[_AGAIN, _UNREAD] = INFEASIBLE


def _tensors(node: Node) -> list[Value]:
    return [value for value in node.outputs if value.is_tensor]
