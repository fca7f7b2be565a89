"""The stages as passes of a `tvm.transform.Sequential`, with what another compiler runs before, between and after them.

The plan travels from `Propagate` to `Lower`, and on, as the module attribute ``spmd.plan``: a reference to the Python object, which a
large model would take seconds to write as text. TVM prints such a module, and neither saves nor hashes it: `sharded` takes the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm

from . import pipeline
from .annotate import Specs
from .errors import ShardingError
from .mesh import Mesh
from .pipeline import ShardedModule
from .plan import Plan
from .profile import Profile
from .propagate import Cost, CostFactory

_PLAN, _LOWERED = "spmd.plan", "spmd.lowered"


def Propagate(
    mesh: Mesh | int,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    memory: float | None = None,
    cost: CostFactory = Cost,
) -> tvm.transform.Pass:
    """`spmd.plan` as a pass: it attaches the plan, and leaves the functions as they are."""

    @tvm.transform.module_pass(opt_level=0, name="spmd.Propagate")
    def propagate(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        _check_whole(mod)
        made = pipeline.plan(mod, mesh, specs, profile=profile, sizes=sizes, divisible=divisible, memory=memory, cost=cost)
        return with_plan(mod, made)

    return propagate


def Lower() -> tvm.transform.Pass:
    """`spmd.lower` as a pass: the program of each worker, by the plan that is attached. It raises `ShardingError` where there is none,
    and where a pass since has changed what the plan decides on.
    """

    @tvm.transform.module_pass(opt_level=0, name="spmd.Lower")
    def lower(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        _check_whole(mod)
        return pipeline.lower(mod, plan_of(mod)).with_attr(_LOWERED, True)

    return lower


def Shard(
    mesh: Mesh | int,
    specs: Specs | None = None,
    *,
    profile: Profile | str = "generic",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
    memory: float | None = None,
    cost: CostFactory = Cost,
) -> tvm.transform.Pass:
    """`spmd.shard` as a pass: what `Propagate` and `Lower` do, in less time, as the module is read once."""

    @tvm.transform.module_pass(opt_level=0, name="spmd.Shard")
    def shard(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        _check_whole(mod)
        made = pipeline.shard(mod, mesh, specs, profile=profile, sizes=sizes, divisible=divisible, memory=memory, cost=cost)
        return made.mod.with_attrs({_PLAN: made.plan, _LOWERED: True})

    return shard


def plan_of(mod: tvm.IRModule) -> Plan:
    """The plan attached to a module, by which it is lowered, or was. It is the one object that all modules share that have it: to change
    it, attach another one. Raises `ShardingError` where there is none.
    """
    if not _has(mod, _PLAN):
        raise ShardingError("module", "it has no plan", "Run spmd.transform.Propagate(mesh) on it first, or attach one by with_plan.")
    return mod.attrs[_PLAN]


def with_plan(mod: tvm.IRModule, plan: Plan) -> tvm.IRModule:
    """`mod` with this plan attached, in the place of any other; `mod` is not changed."""
    _check_whole(mod)
    return mod.with_attr(_PLAN, plan)


def sharded(mod: tvm.IRModule) -> ShardedModule:
    """What `spmd.shard` gives: a module that `Lower` made, and passes may have changed since, apart from its plan."""
    found = plan_of(mod)
    if not _has(mod, _LOWERED):
        raise ShardingError("module", "it is planned and not lowered", "Run spmd.transform.Lower() on it first.")
    return ShardedModule(mod.without_attr(_PLAN).without_attr(_LOWERED), found)


def _check_whole(mod: tvm.IRModule) -> None:
    if _has(mod, _LOWERED):
        raise ShardingError("module", "it is the program of one worker already", "Start from the module that was sharded.")


def _has(mod: tvm.IRModule, attribute: str) -> bool:
    return mod.attrs is not None and attribute in mod.attrs
