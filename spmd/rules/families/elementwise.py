"""Operators that compute each element from the elements at the same place, with broadcasting."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from spmd.rules.model import Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, is_float, letters
from .linearity import linear_difference, linear_product

_UNARY_ZERO = (
    "abs asin asinh atan ceil erf floor negative round sign sin sinh sqrt square tan tanh trunc "
    "nn.relu nn.silu nn.gelu nn.gelu_tanh nn.leakyrelu nn.selu"
)
_UNARY = "acos acosh atanh bitwise_not cos cosh exp log logical_not rsqrt sigmoid nn.softplus isfinite isinf isnan clip"
_BINARY_ZERO = (
    "add subtract multiply maximum minimum bitwise_and bitwise_or bitwise_xor logical_and logical_or logical_xor left_shift right_shift"
)
_QUOTIENT = "divide floor_divide mod floor_mod"
_BINARY = "atan2 power log_add_exp equal not_equal less less_equal greater greater_equal"


def _relax(names: str) -> list[str]:
    return [f"relax.{n}" for n in names.split()]


def _pointwise(op: OpCall, *, zero: Literal["", "any", "all"], linear: tuple[tuple[int, ...], ...] = ()) -> Rule:
    return op.bind(", ".join(["..."] * len(op.inputs)) + " -> ...", zero=zero, linear=linear, work="pointwise")


@rule(*_relax(_UNARY_ZERO), "relax.spmd.hint", "relax.wrap_param", "relax.builtin.stop_lift_params")
def unary_zero(op: OpCall) -> Rule:
    """Element by element; zero stays zero."""
    linear: tuple[tuple[int, ...], ...] = ((0,),) if op.name == "relax.spmd.hint" else ()
    return _pointwise(op, zero="all", linear=linear_difference(op, (0,)) if op.name == "relax.negative" else linear)


@rule("relax.astype")
def astype(op: OpCall) -> Rule:
    """A cast; not linear, as a sum of rounded terms is not the rounded sum."""
    return _pointwise(op, zero="all")


@rule(*_relax(_UNARY), *_relax(_BINARY), "relax.where")
def pointwise(op: OpCall) -> Rule:
    """Element by element."""
    return _pointwise(op, zero="")


@rule(*_relax(_QUOTIENT))
def quotient(op: OpCall) -> Rule:
    """Element by element; dividing floats by positive constants is linear.

    Of integers, what stands in the padding of the divisor must not be zero.
    """
    if is_float(op):
        return _pointwise(op, zero="", linear=linear_product(op, (0,), divides=True) if op.name == "relax.divide" else ())
    found = _pointwise(op, zero="")
    divisor = [f for dim in found.inputs[1] for piece in dim for f in piece] if len(found.inputs) > 1 else []
    return replace(found, forms=dict.fromkeys(divisor, Form("integer_quotient")))


@rule(*_relax(_BINARY_ZERO))
def binary_zero(op: OpCall) -> Rule:
    """Element by element; sums are linear in both terms together, products in either where the other is a fit factor."""
    linear: tuple[tuple[int, ...], ...] = ()
    if op.name == "relax.add":
        linear = ((0, 1),)
    elif op.name == "relax.subtract":
        linear = linear_difference(op, (0, 1))
    elif op.name == "relax.multiply":
        linear = linear_product(op, (0,), (1,))
    return _pointwise(op, zero="any" if op.name == "relax.multiply" else "all", linear=linear)


@rule("relax.nn.dropout")
def dropout(op: OpCall) -> Rule:
    """What TVM makes of it is inference: the input as it is, and a mask of ones."""
    return op.bind("... -> ..., ...", work="pointwise")


@rule("relax.nn.prelu", "relax.quantize", "relax.dequantize")
def by_channel(op: OpCall) -> Rule:
    """Element by element, with numbers of the channel along `axis`, or one for all."""
    names = letters(len(op.inputs[0]))
    channel = names[axis_of(op.attrs.axis, len(names))]
    others = ", ".join("" if not shape else "1" if shape[0] == 1 else channel for shape in op.inputs[1:])
    return op.bind(f"{' '.join(names)}, {others} -> {' '.join(names)}", work="pointwise")
