"""Weights that were constants of the program: their data, which the lowered functions carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tvm

from spmd.errors import ShardingError
from spmd.ir.lift import CONSTANTS, constants_of
from spmd.placement.layout import Array
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


@dataclass(frozen=True)
class Stored:
    """A constant of the program in the file of constants."""

    dtype: str
    shape: tuple[int, ...]
    begin: int


def write_constants(path: Path, constants: Mapping[str, Array]) -> dict[str, Stored]:
    """Write whole arrays one after the other; where each is."""
    stored: dict[str, Stored] = {}
    with path.open("wb") as file:
        for name, data in constants.items():
            stored[name] = Stored(data.dtype.name, tuple(data.shape), file.tell())
            file.write(np.ascontiguousarray(data).tobytes())
    return stored


def read_constants(path: Path, stored: Mapping[str, Stored]) -> dict[str, Array]:
    """The arrays of a file that `write_constants` wrote."""
    data = path.read_bytes()

    def read(what: Stored) -> Array:
        kind: Any = np.dtype(getattr(ml_dtypes, what.dtype, what.dtype))
        count = int(np.prod(what.shape, dtype=np.int64))
        if what.begin < 0 or count < 0 or what.begin + count * kind.itemsize > len(data):
            raise ShardingError(f"{path}", f"it has {len(data)} bytes, and {what} is not in it", "Build and export it again.")
        return np.frombuffer(data, kind, count, what.begin).reshape(what.shape)

    return {name: read(what) for name, what in stored.items()}
