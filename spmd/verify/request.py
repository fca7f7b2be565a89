"""What `verify` is asked, checked: whatever is no module, mesh, placement or name that there is, is an error before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import tvm
from tvm import relax

from spmd.errors import ShardingError


def module(what: str, given: Any) -> None:
    """Raise unless it is a module."""
    if not isinstance(given, tvm.IRModule):
        raise ShardingError(f"verify, {what}", f"it takes an IRModule, and got {type(given).__name__}", "Write spmd.verify(mod, sharded).")


def number(what: str, given: Any, least: int) -> int:
    """A whole number of `least` or more."""
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given < 2**31:
        raise ShardingError(f"verify, {what}", f"it takes a whole number from {least} on, and got {given!r}")
    return given


def named(what: str, given: Any, known: set[str]) -> dict[str, Any]:
    """A dictionary from names that there are."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in cast("Mapping[Any, Any]", given)):
        raise ShardingError(f"verify, {what}", f"it takes a dictionary from names, and got {type(given).__name__}")
    found = dict(cast("Mapping[str, Any]", given))
    for name in found:
        if name not in known:
            there = f"There are {', '.join(sorted(known)[:8])}." if known else "There are none."
            raise ShardingError(f"verify, {what}[{name!r}]", "nothing has this name", there)
    return found


def placements(what: str, given: dict[str, Any]) -> dict[str, Any]:
    """Each has the form of a sharding."""
    for name, placement in given.items():
        if not hasattr(placement, "dims") or not hasattr(placement, "partial"):
            raise ShardingError(f"verify, {what}[{name!r}]", f"it takes a spmd.Sharding, and got {type(placement).__name__}")
    return given


def arrays(given: dict[str, Any]) -> dict[str, Any]:
    """Each is an array of numbers."""
    found = {name: np.asarray(value) for name, value in given.items()}
    for name, array in found.items():
        if array.dtype.kind not in "biuf":
            raise ShardingError(f"verify, arguments[{name!r}]", f"it takes an array of numbers, and got {type(given[name]).__name__}")
    return found


def functions(mod: tvm.IRModule) -> dict[str, Any]:
    """The functions that can be called from outside, by name."""
    found = {var.name_hint: f for var, f in mod.functions.items() if isinstance(f, relax.Function)}
    return {name: f for name, f in found.items() if f.attrs and "global_symbol" in f.attrs}


def symbols(mod: tvm.IRModule) -> set[str]:
    """The names of sizes that parameters have."""
    return {var.name for f in functions(mod).values() for var in relax.analysis.defined_symbolic_vars(f)}


def parameters(mod: tvm.IRModule) -> set[str]:
    """``function.parameter`` of all; of a tuple each part, ``function.parameter[0]``."""
    every = functions(mod).items()
    return {part for name, f in every for param in f.params for part in _parts(param.ty, f"{name}.{param.name}")}


def results(mod: tvm.IRModule) -> set[str]:
    """``function`` of all, and of what gives a tuple each part, ``function[0]``."""
    return {part for name, f in functions(mod).items() for part in _parts(f.ret_ty, name)}


def _parts(ty: Any, name: str) -> list[str]:
    inner = ty.fields if isinstance(ty, relax.TupleType) else ()
    return [name, *(part for i, one in enumerate(inner) for part in _parts(one, f"{name}[{i}]"))]
