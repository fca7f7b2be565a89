"""Random arrays that are the same wherever they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spmd.placement.dtypes import numpy_dtype
from spmd.placement.layout import Array


def random_array(name: str, shape: Sequence[int], dtype: str, seed: int) -> Array:
    """A random array that depends on `name` and `seed` alone; floats have variance one over the last dimension for rank 2 and up."""
    rng = np.random.default_rng([seed, *name.encode()])
    kind = numpy_dtype(dtype)
    if kind.kind in "iu":
        return rng.integers(0, 4, size=shape).astype(kind)
    if kind.kind == "b":
        return rng.integers(0, 2, size=shape).astype(kind)
    scale = 1 / np.sqrt(shape[-1]) if len(shape) > 1 and shape[-1] else 1.0
    return (rng.standard_normal(shape) * scale).astype(kind)
