"""Which value of a per-worker program is the first that is none of the module: found by the numbers in it, not by names."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from spmd.placement.mesh import Mesh

from .collectives import reduced
from .expressions import is_float
from .field import NAN, Array
from .program import Program
from .values import Tensor

_ENOUGH = 0.3
"""The part of a value that must be known: padding is in none of the module."""


def first_wrong(one: Program, many: Program, args: list[Any]) -> str:
    """In words; empty where there is none."""
    computed = [[step.values for step in one.steps or []], args]
    known, steps = _numbers([*computed, one.inside]), many.steps or []
    found = next(((step, ranks) for step in steps if (ranks := _unexplained(step.values, known, many.mesh))), None)
    if found is None and not (_numbers(computed) == NAN).any():
        found = next(((step, ranks) for step in steps if (ranks := _unwritten(step.values))), None)
    if found is None:
        return ""
    step, ranks = found
    return f". The first value that is none of the module: {step.operator} {step.name!r} of {step.function!r}, on worker {ranks[0]}"


def _unwritten(column: list[Any]) -> list[int]:
    """The workers whose value has memory that nobody wrote in it, or what is no number."""
    floats = [(rank, value) for rank, value in enumerate(column) if isinstance(value, Tensor) and is_float(value.dtype)]
    return [rank for rank, value in floats if bool((value.data == NAN).any())]


def _numbers(values: list[Any]) -> Array:
    """All floats in these, sorted."""
    found: list[Array] = []

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            if is_float(value.dtype):
                found.append(value.data.reshape(-1))
        elif isinstance(value, tuple | list):
            for part in value:
                visit(part)

    visit(values)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, "int64")


def _unexplained(column: list[Any], known: Array, mesh: Mesh) -> list[int]:
    """The workers whose value is neither known nor a part of a reduction that is known."""
    if not isinstance(column[0], Tensor) or not is_float(column[0].dtype) or not column[0].data.size:
        return []
    shares = np.array([_share(value, known) for value in column])
    axes = [a for a, n in mesh.axes.items() if n > 1]
    if shares.min() < _ENOUGH:
        for names in (names for n in range(1, len(axes) + 1) for names in combinations(axes, n)):
            for kind in ("sum", "max", "min"):
                for group in mesh.groups("+".join(names)):
                    share = _share(reduced([column[rank] for rank in group], kind), known)
                    shares[group] = np.maximum(shares[group], share)
    return [rank for rank, share in enumerate(shares) if share < _ENOUGH]


def _share(value: Tensor, known: Array) -> float:
    """What part of a value is among sorted numbers."""
    if not known.size:
        return 0.0
    places = np.minimum(np.searchsorted(known, value.data), known.size - 1)
    return float((known[places] == value.data).mean())
