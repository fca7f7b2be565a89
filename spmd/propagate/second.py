"""Values that are held in a second placement, too: what several operators take there is converted once for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from spmd.costs.cost import INFEASIBLE, Cost
from spmd.placement.sharding import Sharding
from spmd.placement.spec import Constraint
from spmd.program.graph import PASSING, Branch, Graph, Node, Value

from .candidates import Candidates
from .solver import Table

Second = tuple[tuple[int, Sharding], ...]
"""The number of the sharding in which a value is kept, and another one that it is converted to once."""
_Pairs = Sequence[tuple[Sharding, Sharding]]
"""The same with both shardings themselves."""
MOST, FEWEST = 12, 2
"""The most ways to hold a value, of which FEWEST may be in two placements however many there are, and those of coarser meshes besides:
tables grow with their product over the operands of an operator."""
_LITTLE = 0.1
"""The part of the time of a conversion that the way back must take for it to be considered first."""
_ELSEWHERE = PASSING | {"join"}
"""Operators after which a value is in another function, or in another branch."""


def second_places(graph: Graph, candidates: Candidates, cost: Cost) -> dict[Value, Second]:
    """For each value that several operators of one function take, in one branch: in what two placements it may be worth holding.

    What a coarser mesh would consider is considered, too, so that a plan does not get worse where a mesh is refined; on three axes only
    what is worth it.
    """
    makers = _makers(graph)
    fill = len(candidates.coarser) < 2
    considered = [_considered(graph, one, cost, makers, fill) for one in (candidates, *candidates.coarser)]
    known: dict[tuple[int, ...], Second] = {}
    same: dict[Second, Second] = {}
    found: dict[Value, Second] = {}
    for value in dict.fromkeys(value for pairs in considered for value in pairs):
        own = candidates.shardings[value]
        key = (id(own), *[id(pairs.get(value)) for pairs in considered])
        if key not in known:
            at = {sharding: i for i, sharding in enumerate(own)}
            second = tuple(dict.fromkeys((at[kept], other) for pairs in considered for kept, other in pairs.get(value, ()) if kept in at))
            known[key] = same.setdefault(second, second)
        found[value] = known[key]
    return found


def _considered(
    graph: Graph, candidates: Candidates, cost: Cost, makers: Mapping[Value, Sequence[Node]], fill: bool
) -> dict[Value, _Pairs]:
    """The two placements that values may be in at once by some candidates."""
    found: dict[Value, _Pairs] = {}
    known: dict[tuple[object, ...], _Pairs] = {}
    taken = _Taken(graph, candidates)
    for value, readers in taken.of.items():
        made = makers.get(value, [])
        if len(readers) < 2 or len(taken.places[value] | {(n.function, n.branch) for n in made}) > 1:
            continue
        if value.memory or value in taken.staying or len(made) > 1 or any(node.op in _ELSEWHERE for node in made):
            continue
        kept = candidates.shardings[value]
        key = (cost.shape(value), value.dtype, id(kept), value.may_gather, tuple(sorted(map(id, readers))))
        if key not in known:
            known[key] = _worth_it(value, kept, readers, cost, fill)
        if known[key]:
            found[value] = known[key]
    return found


class _Taken:
    """How operators, and the end of a function, may take each value, a list for each of them; and the branches in which they do."""

    def __init__(self, graph: Graph, candidates: Candidates) -> None:
        self.of: dict[Value, list[Sequence[Sharding]]] = {}
        self.places: dict[Value, set[tuple[str, Branch]]] = {}
        self.staying: set[Value] = set()
        """What some operator takes, or makes, as it is kept."""
        self._lists: dict[tuple[object, ...], Sequence[Sharding]] = {}
        for function in graph.functions.values():
            for node in function.nodes:
                strategies = candidates.strategies[node]
                self.staying.update(v for i, v in enumerate(node.inputs) if node.staying(i, False))
                self.staying.update(v for i, v in enumerate(node.outputs) if node.staying(i, True))
                for i, value in enumerate(node.inputs):
                    if value.is_tensor and candidates.shardings[value]:
                        key = (id(strategies), i)
                        if key not in self._lists:
                            self._lists[key] = tuple(dict.fromkeys(strategy.inputs[i] for strategy in strategies))
                        self._add(value, self._lists[key], function.name, node.branch)
            for value, wanted, _ in function.at_end:
                if isinstance(wanted, Constraint) and value.is_tensor:
                    kept = candidates.shardings[value]
                    end = self._lists.setdefault((id(kept), wanted), tuple(s for s in wanted.among(kept) if wanted.allows(s)))
                    self._add(value, end, function.name, ())

    def _add(self, value: Value, shardings: Sequence[Sharding], function: str, branch: Branch) -> None:
        self.of.setdefault(value, []).append(shardings)
        self.places.setdefault(value, set()).add((function, branch))


def _makers(graph: Graph) -> Mapping[Value, Sequence[Node]]:
    found: dict[Value, list[Node]] = {}
    for function in graph.functions.values():
        for node in function.nodes:
            for value in node.outputs:
                found.setdefault(value, []).append(node)
    return found


def _worth_it(value: Value, kept: Sequence[Sharding], readers: Sequence[Sequence[Sharding]], cost: Cost, fill: bool) -> _Pairs:
    """A second placement is worth holding where two take it; of many, those that are reached the fastest. Where
    there is room, it is filled with others: seldom used by the optimum, but by what explanations compare it with.
    """
    times = Counter(sharding for taken in readers for sharding in taken)
    often = [sharding for sharding, count in times.items() if count > 1]
    if not often:
        return []
    shape, item = cost.shape(value), cost.item_bytes(value)
    there = cost.conversions(shape, item, kept, often, value.may_gather)
    back = cost.conversions(shape, item, often, kept, value.may_gather).T
    # Where one way is next to nothing, as a slice is, the value may as well be kept at the other end, if it may be kept there.
    pinned = np.array([sharding not in kept for sharding in often])
    worth = (there > _LITTLE * np.where(back < INFEASIBLE, back, 0.0)) & (pinned | (back > _LITTLE * there))
    order = [divmod(int(at), len(often)) for at in np.lexsort((there.ravel(), ~worth.ravel()))]
    pairs = [(i, j) for i, j in order if kept[i] != often[j] and there[i, j] < INFEASIBLE]
    most = MOST - len(kept)
    if not fill or most < FEWEST:
        pairs = [(i, j) for i, j in pairs if worth[i, j]]
    return [(kept[i], often[j]) for i, j in pairs[: max(most, FEWEST)]]


def with_taken(times: Table, taken: Sequence[Sharding], second: Second) -> Table:
    """The times to convert a value to how it is `taken` (rows) from each way to keep it, with those where it is in two placements."""
    return np.column_stack([times, *(np.where([sharding == other for sharding in taken], 0.0, times[:, i]) for i, other in second)])


def with_made(times: Table, second: Second, onward: Sequence[float]) -> Table:
    """The times to convert what is made (rows) to each way to keep it, with those that go `onward` to second placements."""
    return np.column_stack([times, *(times[:, i] + seconds for (i, _), seconds in zip(second, onward, strict=True))])
