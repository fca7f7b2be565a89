"""What a partial sum may be multiplied with: a part that is zero, times infinity, is NaN, where the whole would have no such term."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from spmd.rules.registry import OpCall

from .helpers import is_float

_SMALL = 4096
"""Constants with more elements are not looked at."""


def linear_product(op: OpCall, *sets: tuple[int, ...], divides: bool = False) -> tuple[tuple[int, ...], ...]:
    """Those of the sets of inputs in which a product is linear whatever stands in the others; with `divides`, a quotient.

    Of floats, the others must be constants that are finite and not negative (which would turn the sign of parts that are zero), and
    divisors positive. Integers wrap around alike where all have the dtype of the product.
    """
    args = tensors_of(op.call)
    if not is_float(op):
        alike = not divides and all(str(a.ty.dtype) == str(op.call.ty.dtype) for a in args)
        return sets if alike else ()
    wanted = ("positive",) if divides else ("positive", "not negative")
    return tuple(s for s in sets if all(constant_kind(a) in wanted for i, a in enumerate(args) if i not in s))


def linear_difference(op: OpCall, terms: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """`terms`, but for floats: of parts that are all zero, what is taken away turns the sign."""
    return () if is_float(op) else (terms,)


def tensors_of(call: Any) -> list[Any]:
    """The arguments that are tensors, in the order of a rule's inputs."""
    flat = [field for arg in call.args for field in (arg.fields if isinstance(arg, relax.Tuple) else (arg,))]
    return [arg for arg in flat if isinstance(arg.ty, relax.TensorType)]


def constant_kind(arg: Any) -> str:
    """What a small finite constant is everywhere: "positive", or "not negative"; empty where it is neither."""
    if not isinstance(arg, tvm.ir.GenericConst) or not isinstance(arg.ty, relax.TensorType) or math.prod(arg.value.shape) > _SMALL:
        return ""
    values: Any = np.asarray(arg.value.numpy()).astype("float64")
    if not np.isfinite(values).all() or np.signbit(values).any():
        return ""
    return "positive" if (values > 0).all() else "not negative"
