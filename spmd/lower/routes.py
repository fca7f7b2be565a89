"""By which moves the plan takes a value from one sharding to another."""

from __future__ import annotations

from collections.abc import Mapping

from spmd.errors import ShardingError
from spmd.placement.sharding import Sharding
from spmd.plan.model import Plan
from spmd.program.graph import Value
from spmd.transfers.conversion import Step, steps_through

from .kept import WAY_OUT, check_held

Ends = tuple[str, Sharding, Sharding]
"""The name of a value, how it is before, and after."""


class Routes:
    """Those of one function: what the plan has, and else the one move that takes a value there."""

    def __init__(self, plan: Plan, function: str) -> None:
        self.mesh, self._where = plan.mesh, f"plan for {function!r}"
        routes = [route for route in plan.routes if route.function == function]
        self._shardings: Mapping[Ends, tuple[Sharding, ...]] = {
            (route.value, route.shardings[0], route.shardings[-1]): route.shardings for route in routes if route.shardings
        }

    def steps(self, value: Value, source: Sharding, target: Sharding) -> list[Step]:
        """The moves. Raises `ShardingError` where the plan does not say them, or says what is none."""
        through = self._shardings.get((value.name, source, target), (source, target))
        for sharding in through[1:-1]:
            check_held(sharding, value, self.mesh, f"{self._where}: {value.path!r}")
        found = steps_through(through, self.mesh)
        if found is None:
            way = " -> ".join(map(str, through))
            raise ShardingError(f"{self._where}: {value.name!r}", f"it does not say by which moves it goes {way}", WAY_OUT)
        return found
