"""The stages as passes of a `tvm.transform.Sequential`, with what another compiler runs before, between and after them.

The plan travels from `Propagate` to `Lower`, and on, as the module attribute ``spmd.plan``: a reference to the Python object, which a
large model would take seconds to write as text. TVM prints such a module, and neither saves nor hashes it: `sharded` takes the two apart.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import tvm

from . import checks, pipeline
from .checks.door import door
from .errors import ShardingError
from .explain import Plan
from .lower import score_cap
from .pipeline import ShardedModule

_Options = ParamSpec("_Options")
_Made = TypeVar("_Made")
_PLAN, _LOWERED = "spmd.plan", "spmd.lowered"


def _as_pass(
    stage: Callable[Concatenate[tvm.IRModule, _Options], _Made],
) -> Callable[[Callable[[tvm.IRModule, _Made], tvm.IRModule]], Callable[_Options, tvm.transform.Pass]]:
    """A pass that takes the options of `stage` and runs it; the function below says what module comes out."""

    def decorator(end: Callable[[tvm.IRModule, _Made], tvm.IRModule]) -> Callable[_Options, tvm.transform.Pass]:
        name, (_, *options) = f"spmd.{end.__name__}", inspect.signature(stage).parameters.values()
        signature = inspect.Signature(options, return_annotation=tvm.transform.Pass)

        @functools.wraps(end)
        def make(*args: _Options.args, **kwargs: _Options.kwargs) -> tvm.transform.Pass:
            checks.arguments(
                name, signature, getattr(stage, "checks", {}), args, kwargs
            )  # a wrong option is an error here, not when the pass runs

            @tvm.transform.module_pass(opt_level=0, name=name)
            def run(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
                _check_whole(mod)
                return end(mod, stage(mod, *args, **kwargs))

            return run

        make.__dict__["__signature__"] = signature
        return make

    return decorator


@_as_pass(pipeline.plan)
def Propagate(mod: tvm.IRModule, made: Plan) -> tvm.IRModule:
    """`spmd.plan` as a pass, with its options: it attaches the plan, and leaves the functions as they are."""
    return with_plan(mod, made)


def _lower(mod: tvm.IRModule) -> tvm.IRModule:
    return pipeline.lower(mod, plan_of(mod))


@_as_pass(_lower)
def Lower(_: tvm.IRModule, made: tvm.IRModule) -> tvm.IRModule:
    """`spmd.lower` as a pass: the program of each worker, by the plan that is attached. It raises `ShardingError` where there is none,
    and where a pass since has changed what the plan decides on.
    """
    return made.with_attr(_LOWERED, True)


@_as_pass(pipeline.shard)
def Shard(_: tvm.IRModule, made: ShardedModule) -> tvm.IRModule:
    """`spmd.shard` as a pass, with its options: what `Propagate` and `Lower` do, in less time, as the module is read once."""
    return made.mod.with_attrs({_PLAN: made.plan, _LOWERED: True})


@door(cap=checks.number(above=True))
def CapScores(cap: float) -> tvm.transform.Pass:
    """A pass that caps the scores of attention in the paged KV caches of a module, `cap * tanh(score / cap)`, as Gemma 2 does; it runs
    before the module is sharded. It raises `ShardingError` for a module without such a cache, and where scores are capped already.
    """

    @tvm.transform.module_pass(opt_level=0, name="spmd.CapScores")
    def run(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        _check_whole(mod)
        return score_cap.cap_scores(mod, float(cap))

    return run


@door(mod=checks.module)
def plan_of(mod: tvm.IRModule) -> Plan:
    """The plan attached to a module, by which it is lowered, or was. It is the one object that all modules share that have it: to change
    it, attach another one. Raises `ShardingError` where there is none.
    """
    if not _has(mod, _PLAN):
        raise ShardingError("module", "it has no plan", "Run spmd.transform.Propagate(mesh) on it first, or attach one by with_plan.")
    return mod.attrs[_PLAN]


@door(mod=checks.module, plan=checks.instance(Plan, "Write with_plan(mod, spmd.plan(mod, mesh))."))
def with_plan(mod: tvm.IRModule, plan: Plan) -> tvm.IRModule:
    """`mod` with this plan attached, in the place of any other; `mod` is not changed."""
    _check_whole(mod)
    return mod.with_attr(_PLAN, plan)


@door(mod=checks.module)
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
