"""Plans that split the batch: every worker has all weights (data parallel), or a part of each (fully sharded)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm

from spmd import checks
from spmd.annotate import specs_of
from spmd.checks import door
from spmd.errors import ShardingError
from spmd.placement.spec import P, Spec
from spmd.program.graph import Value

from .reading import Reading, axis_name, warn_of
from .state import state_of


@door(mod=checks.module, axis=axis_name)
def data_parallel(mod: tvm.IRModule, axis: str = "dp") -> dict[str, Spec]:
    """The batch is split over `axis`, every worker has all weights: nothing is sent, but gradients are summed.

    The batch is dimension 0 of the first tensor that a function takes; other inputs and results of that size in dimension 0 are split too.
    Where it is symbolic it is padded, unless `shard` is told by what it can be divided. Raises `ShardingError` where no function has a
    batch.
    """
    reading = Reading(mod)
    return _batch(reading, axis) | {name: P(others=None) for name in reading.weights} | state_of(reading)


@door(mod=checks.module, axis=axis_name, specs=specs_of)
def fsdp(mod: tvm.IRModule, axis: str = "dp", specs: Mapping[str, Spec] | None = None) -> dict[str, Spec]:
    """The specs of `data_parallel`, but every weight is split over `axis` too, in its largest dimension: memory shrinks with the workers.

    Who uses a weight gathers it, or brings its data to the parts, whichever is less. `specs` are those of another plan
    (``fsdp(mod, "dp", megatron(mod, "tp"))``): where they split a weight, it is split over `axis` in another dimension.
    """
    reading, found = Reading(mod), dict(specs or {})
    left: list[str] = []
    for name, weight in reading.weights.items():
        given = found.get(name)
        given = given if isinstance(given, P) else P(others=None)
        entries: list[Any] = [*given.entries] or [None] * len(weight.shape)
        free = [i for i, (e, s) in enumerate(zip(entries, weight.shape, strict=False)) if e is None and s is not None and s > 1]
        if len(entries) == len(weight.shape) and free:
            entries[max(free, key=lambda i: weight.shape[i] or 0)] = axis
            found[name] = P(*entries, gather=given.gather)
        elif weight.shape:
            left.append(name)
    warn_of("fsdp", left, f"of which no dimension is left to split over {axis!r}, as they are")
    return _batch(reading, axis) | state_of(reading) | found


def _batch(reading: Reading, axis: str) -> dict[str, Spec]:
    found: dict[str, P] = {}
    for name, function in reading.graph.functions.items():
        own = {n: v for n, v in reading.inputs.items() if v.function == name and v.shape}
        ends = {n: v for n, v in reading.results.items() if n.partition(".")[0] == name and v.shape}
        batch = next((str(v.dims[0]) for v in own.values()), "1")
        if batch != "1":
            found |= {n: _split(v, axis) for n, v in {**own, **ends}.items() if str(v.dims[0]) == batch}
        elif function.num_input is None:
            found |= {n: P(others=None) for n in own}
    if not any(spec.entries for spec in found.values()):
        inputs = list(reading.inputs)
        what = f"no function takes a batch of more than one (inputs: {', '.join(inputs[:4]) or 'none'})"
        raise ShardingError(f"plan over {axis!r}", what, "Write specs for the inputs that can be split.")
    return dict(found)


def _split(value: Value, axis: str) -> P:
    return P(axis, *[None] * (len(value.shape) - 1))
