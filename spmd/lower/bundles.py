"""Which conversions of a function the plan has in one call."""

from __future__ import annotations

from spmd.errors import ShardingError
from spmd.ir.trees import leaves
from spmd.placement.sharding import Sharding
from spmd.plan.model import Plan
from spmd.program.graph import Function, Value

from .kept import WAY_OUT

Way = tuple[str, Sharding, Sharding]
"""A conversion: the name of the value, how it is before, and after."""


def bundles_of(plan: Plan, function: Function) -> dict[Way, list[tuple[Way, Value]]]:
    """For each conversion that goes in a bundle, all those of its bundle, in the order of the plan."""
    found: dict[int, list[Way]] = {}
    for c in plan.collectives:
        if c.bundle and c.function == function.name and c.source is not None and c.target is not None:
            found.setdefault(c.bundle, []).append((c.value, c.source, c.target))
    if not found:
        return {}
    assert function.result is not None
    ends = leaves((*function.params, function.result))
    values = {v.name: v for v in (*ends, *(v for node in function.nodes for v in (*node.inputs, *node.outputs)))}
    for name in (name for ways in found.values() for name, _, _ in ways):
        if name not in values:
            raise ShardingError(f"plan for {function.name!r}", f"a bundle moves {name!r}, which the function does not have", WAY_OUT)
    return {way: [(w, values[w[0]]) for w in ways] for ways in found.values() for way in ways}
