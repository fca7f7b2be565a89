"""Weights that were constants of the program: their data, which the lowered functions carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm

from spmd.errors import ShardingError
from spmd.ir.lift import CONSTANTS, constants_of
from spmd.plan.decisions import Signature


def constants_by_name(mod: tvm.IRModule, functions: Mapping[str, Signature]) -> dict[str, Any]:
    """The data of all weights that were constants, by the names that signatures give them. Raises where a function has lost its own."""
    found: dict[str, Any] = {}
    for name, signature in functions.items():
        data = constants_of(mod[name]) if signature.constants else []
        if len(data) != len(signature.constants):
            what = f"its plan has {len(signature.constants)} constants of the program, and its attribute {CONSTANTS} holds {len(data)}"
            raise ShardingError(f"function {name!r}", what, "Lower it again, and keep the attributes of functions in passes after it.")
        for leaf, tensor in zip(signature.constants, data, strict=True):
            found.setdefault(leaf.name, tensor)
    return found
