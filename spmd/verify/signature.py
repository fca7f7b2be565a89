"""What a function takes and gives, and how each worker holds it: from a plan, read as plain data, or from what a user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from spmd.errors import ShardingError

from .request import functions

CONSTANTS = "spmd.constants"
"""The attribute of a per-worker function which has the data of constants of the module that became its last parameters."""


@dataclass(frozen=True)
class Segment:
    """A piece of a dimension."""

    size: int
    unit: int = 1


@dataclass(frozen=True)
class Split:
    """How a dimension of a known size is split."""

    axes: tuple[str, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Place:
    """A placement, in the form that those of a plan have."""

    dims: tuple[Split | None, ...]
    partial: tuple[tuple[str, str], ...] = ()


def whole(ndim: int) -> Place:
    """The placement of what every worker holds whole."""
    return Place((None,) * ndim)


@dataclass(frozen=True)
class Signature:
    """A function: trees, in tuples, of a placement each, None for what is no tensor; constants with their data."""

    params: tuple[Any, ...]
    outputs: Any
    constants: tuple[tuple[Any, Any], ...] = ()
    sizes: tuple[str, ...] = ()
    """Symbolic sizes that each worker is told, after its parameters and before constants."""
    sources: tuple[int, ...] | None = None
    """For each parameter of the workers the one of the module that it holds; by default the one in its place."""
    is_open: bool = False
    """Whether nothing is said of results: how workers hold them is to be found."""

    def of(self, values: Sequence[Any]) -> list[Any]:
        """What each parameter of the workers holds, where these are the parameters of the module."""
        return list(values) if self.sources is None else [values[i] for i in self.sources]


def of_plan(plan: Any, mod: tvm.IRModule, local: tvm.IRModule) -> dict[str, Signature]:
    """The signatures that a plan has, which has all functions; the per-worker module carries the data of constants."""

    def tree(node: Any) -> Any:
        return tuple(map(tree, node)) if isinstance(node, tuple) else node.sharding

    for name in functions(mod):
        if name not in plan.functions:
            raise ShardingError("verify", f"the plan has no function {name!r}", "Plan the module again, or take the function out of it.")
    found: dict[str, Signature] = {}
    for name, signature in plan.functions.items():
        data = list(local[name].attrs.get(CONSTANTS, ())) if signature.constants else []
        if len(data) != len(signature.constants):
            raise ShardingError(f"verify, {name!r}", f"it lacks the data of its {len(signature.constants)} constants", "Lower it again.")
        constants = tuple((leaf.sharding, value) for leaf, value in zip(signature.constants, data, strict=True))
        found[name] = Signature(tuple(map(tree, signature.params)), tree(signature.outputs), constants, signature.sizes)
    return found


def of_user(mod: tvm.IRModule, local: tvm.IRModule, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Signature]:
    """Signatures of functions that both modules have: placements by ``function.parameter`` and by ``function``, with ``[i]`` for a part
    of a tuple; what is not named is whole.
    """

    def tree(ty: Any, name: str, given: Mapping[str, Any]) -> Any:
        if isinstance(ty, relax.TupleType):
            return tuple(tree(inner, f"{name}[{i}]", given) for i, inner in enumerate(ty.fields))
        return given.get(name, whole(ty.ndim)) if isinstance(ty, relax.TensorType) else None

    found: dict[str, Signature] = {}
    there = functions(local)
    for name, func in functions(mod).items():
        if name not in there:
            raise ShardingError("verify", f"the per-worker module has no function {name!r}", "It has those of the module, by their names.")
        params = tuple(tree(p.ty, f"{name}.{p.name}", inputs) for p in func.params)
        found[name] = Signature(params, tree(func.ret_ty, name, outputs))
    return found
