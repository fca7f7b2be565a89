"""shard(): annotate -> propagate -> lower, one line a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from . import annotate as annotating
from . import lower as lowering
from . import propagate as propagating
from .annotate import Specs
from .layout import Array
from .mesh import Mesh
from .plan import Plan
from .profile import Profile, profile_of


@dataclass(frozen=True)
class ShardedModule:
    """The program of each worker, the plan behind it, and the way to cut weights."""

    mod: tvm.IRModule
    plan: Plan

    @property
    def mesh(self) -> Mesh:
        """The workers."""
        return self.plan.mesh

    def partition(self, weights: Mapping[str, Array] | Sequence[Array], rank: int | None = None) -> Any:
        """``{name: array}`` (or a sequence in parameter order) cut into one such dict a worker, or that of worker `rank`."""
        return lowering.partition(self.plan, weights, rank)


def shard(
    mod: tvm.IRModule,
    mesh: Mesh | int,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
) -> ShardedModule:
    """The program that each worker of `mesh` runs, for a whole-model Relax module written for one device. `mod` is not changed.

    `specs` maps patterns of names to `P` (see `annotate.Specs`); `profile` is the hardware whose predicted time is minimized;
    `sizes` gives symbolic sizes by name for that prediction (64 where it does not).
    Raises `ShardingError` for bad specs and for modules that cannot be represented.
    """
    cost = propagating.Cost(Mesh.of(mesh), profile_of(profile), sizes)
    graph = propagating.build_graph(mod)
    annotating.annotate(graph, cost.mesh, specs)
    decided = propagating.make_plan(graph, cost)
    return ShardedModule(lowering.lower_graph(graph, decided), decided)


def plan(
    mod: tvm.IRModule,
    mesh: Mesh | int,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
) -> Plan:
    """The first half of `shard`: where each tensor lives, and why."""
    cost = propagating.Cost(Mesh.of(mesh), profile_of(profile), sizes)
    graph = propagating.build_graph(mod)
    annotating.annotate(graph, cost.mesh, specs)
    return propagating.make_plan(graph, cost)


def lower(mod: tvm.IRModule, plan: Plan) -> tvm.IRModule:
    """The second half of `shard`: the per-worker program of `mod` under `plan`."""
    return lowering.lower_graph(propagating.build_graph(mod), plan)
