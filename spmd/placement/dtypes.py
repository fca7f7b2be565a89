"""Dtypes by TVM's names as NumPy has them, those of ml_dtypes among them, and the numbers at their ends."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np


def numpy_dtype(name: str) -> Any:
    """The dtype that NumPy knows by TVM's name, such as "float32" or "bfloat16"."""
    return np.dtype(getattr(ml_dtypes, name, name))


def finite_ends(name: str) -> tuple[Any, Any]:
    """The least and the greatest finite number of a dtype."""
    kind = numpy_dtype(name)
    if kind.kind == "b":
        return False, True
    limits: Any = (ml_dtypes.iinfo if name.startswith(("int", "uint")) else ml_dtypes.finfo)(kind)
    return limits.min, limits.max


def ends(name: str) -> tuple[Any, Any]:
    """What no number of a dtype is below, and above: the infinities where it has them, else its finite ends."""
    kind = numpy_dtype(name)
    floats = kind.kind not in "biu" and not name.startswith(("int", "uint"))
    infinite = floats and bool(np.isinf(np.array(np.inf, kind).astype("float32")))
    return (-np.inf, np.inf) if infinite else finite_ends(name)
