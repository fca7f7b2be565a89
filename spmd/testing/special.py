"""Numbers at the edge among random ones: infinities, NaN, zeros of both signs, the smallest of all, and ties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from spmd.placement.layout import Array

_SHARE = 0.2
"""How many of the elements are replaced."""


def sprinkled(array: Array, seed: int, *, nan: bool = True) -> Array:
    """A copy of an array of floats with special numbers at random places; NaN only with `nan`. Other arrays as they are."""
    if array.dtype.kind in "iubO" or not array.size:
        return array
    rng = np.random.default_rng([seed, array.size, *array.shape])
    smallest = float(ml_dtypes.finfo(array.dtype).smallest_subnormal)
    numbers = [np.inf, -np.inf, *[np.nan] * nan, -0.0, 0.0, smallest, -smallest, float(array.flat[0])]
    chosen = np.asarray(rng.random(array.shape) < _SHARE)
    made = np.array(array)
    made[chosen] = np.array(numbers, array.dtype)[rng.integers(len(numbers), size=int(chosen.sum()))]
    return made


def sprinkled_arguments(given: Sequence[Any], seed: int, *, nan: bool = True) -> list[Any]:
    """`sprinkled` of every array in arguments, which may be in tuples."""
    return [
        tuple(sprinkled_arguments(a, seed + i, nan=nan)) if isinstance(a, tuple) else sprinkled(a, seed + i, nan=nan)
        for i, a in enumerate(given)
    ]


def exact_terms(array: Array, workers: int, seed: int) -> list[Array]:
    """Arrays of which each element stands in one, and nothing in the others: the parts of a look-up."""
    owner = np.random.default_rng(seed).integers(workers, size=array.shape)
    return [np.where(owner == i, array, np.array(-0.0).astype(array.dtype)) for i in range(workers)]


def signs_of_zeros_differ(expected: Any, found: Any) -> bool:
    """Whether a zero has another sign in `found`, of the same shape as `expected`."""
    if isinstance(expected, tuple | list):
        return any(signs_of_zeros_differ(a, b) for a, b in zip(expected, found, strict=True))
    a, b = np.asarray(expected), np.asarray(found)
    if a.dtype.kind in "iubO":
        return False
    both = (a.astype("float64") == 0) & (b.astype("float64") == 0)
    return bool((np.signbit(a.astype("float64")) != np.signbit(b.astype("float64")))[both].any())
