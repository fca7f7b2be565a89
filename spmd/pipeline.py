"""shard(): annotate -> propagate -> lower, one line a stage."""

from __future__ import annotations

import functools
import gc
import inspect
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tvm

from . import checks
from .annotate import Specs, annotate, specs_of
from .checks import door, told
from .errors import ShardingError
from .graph import Graph
from .inline import inlined
from .lower import check_plan, lower_graph, partition, told_by_shards
from .mesh import Mesh, MeshLike
from .plan import Plan
from .profile import Profile, profile_of, profile_taken
from .propagate import Cost, CostFactory, build_graph, make_plan
from .propagate.sizes import check_symbols, planning_sizes

_LOG = logging.getLogger("spmd")


def _cost(_: str, given: Any) -> Any:
    """A class of costs, or what makes one."""
    if isinstance(given, Cost):
        raise ShardingError("cost", f"{given!r} is made already, and for one mesh", "Pass the class, cost=MyCost.")
    if not (isinstance(given, type) and issubclass(given, Cost)) and not (inspect.isroutine(given) or isinstance(given, functools.partial)):
        raise ShardingError("cost", f"it takes a subclass of spmd.Cost, and got {told(given)}", "Pass the class, cost=MyCost.")
    return given


_planning = door(
    mod=checks.module,
    mesh=Mesh.taken,
    specs=specs_of,
    profile=profile_taken,
    sizes=checks.maybe(checks.sizes),
    divisible=checks.maybe(checks.divisible),
    memory=checks.maybe(checks.memory),
    cost=_cost,
)
"""What `shard` and `plan` are given."""


@dataclass(frozen=True)
class ShardedModule:
    """The program of each worker, the plan behind it, and the way to cut weights."""

    mod: tvm.IRModule
    plan: Plan

    @property
    def mesh(self) -> Mesh:
        """The workers."""
        return self.plan.mesh

    def partition(self, weights: Mapping[str, Any] | Sequence[Any], rank: int | None = None) -> Any:
        """``{name: array}`` (or a sequence in parameter order) cut into one such dict a worker, or that of worker `rank`."""
        return partition(self.plan, weights, rank)


@_planning
def shard(
    mod: tvm.IRModule,
    mesh: MeshLike,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    memory: float | None = None,
    cost: CostFactory = Cost,
) -> ShardedModule:
    """The program that each worker of `mesh` runs, for a whole-model Relax module written for one device. `mod` is not changed.

    `specs` maps patterns of names to `P` (see `annotate.Specs`); `profile` is the hardware whose predicted time is minimized;
    `sizes` gives symbolic sizes by name for that prediction (64 where it does not). `divisible` says by what symbolic sizes can be
    divided, by name: such dimensions may be split, and an argument that breaks the word is an error. `memory` is the most bytes that a
    worker may hold, by default those of the profile. `cost` is a subclass of `Cost` that says what takes how long.
    Raises `ShardingError` for bad specs and for modules that cannot be represented.
    """
    with _no_garbage_collection():
        graph, decided = _planned(mod, mesh, specs, profile, sizes, divisible, memory, cost)
        return ShardedModule(_lowered(graph, decided), decided)


@_planning
def plan(
    mod: tvm.IRModule,
    mesh: MeshLike,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    memory: float | None = None,
    cost: CostFactory = Cost,
) -> Plan:
    """The first half of `shard`: where each tensor lives, and why."""
    with _no_garbage_collection():
        return _planned(mod, mesh, specs, profile, sizes, divisible, memory, cost)[1]


@door(mod=checks.module, plan=checks.instance(Plan, "Write spmd.lower(mod, spmd.plan(mod, mesh))."))
def lower(mod: tvm.IRModule, plan: Plan) -> tvm.IRModule:
    """The second half of `shard`: the per-worker program of `mod` under `plan`. Raises `ShardingError` for a plan of another module."""
    with _no_garbage_collection():
        graph = build_graph(inlined(mod), checks.divisible("plan.divisible", plan.divisible))
        check_plan(graph, plan)
        return _lowered(graph, plan)


def _lowered(graph: Graph, plan: Plan) -> tvm.IRModule:
    """The program of each worker; sizes that no worker is told are written as multiples of local ones first."""
    told = told_by_shards(graph, plan)
    return lower_graph(graph if told is None else build_graph(told, plan.divisible), plan)


def _planned(
    mod: tvm.IRModule,
    mesh: MeshLike,
    specs: Specs | None,
    profile: Profile | str,
    sizes: Mapping[str, int] | None,
    divisible: Mapping[str, int] | None,
    memory: float | None,
    cost: CostFactory,
) -> tuple[Graph, Plan]:
    """The graph of `mod` and its plan, whose notes are logged: what is replicated for want of a rule is never silent."""
    times = cost(Mesh.of(mesh), profile_of(profile), planning_sizes(sizes, divisible), memory)
    if not isinstance(times, Cost):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ShardingError("cost", f"it gave {told(times)}, and not a spmd.Cost", "Pass a subclass of spmd.Cost, cost=MyCost.")
    graph = build_graph(inlined(mod), divisible)
    check_symbols(graph, sizes=sizes, divisible=divisible)
    annotate(graph, times.mesh, specs)
    decided = make_plan(graph, times)
    decided.divisible, decided.profile = dict(divisible or {}), times.name
    for note in decided.notes:
        _LOG.warning(note)
    return graph, decided


@contextmanager
def _no_garbage_collection() -> Generator[None]:
    """Nothing that a plan is made of is garbage before it is done, and looking for it takes a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # what was made is not young any more: the next collection need not look through it
                gc.freeze()
                gc.unfreeze()
            gc.enable()
