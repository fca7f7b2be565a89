"""Casts to and from floats of 8 bits, bit by bit: those of TVM 0.27 are wrong near zero, of which they make 2^-7, and beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

_IF = tvm.ir.Op.get("prim.if_then_else")
_BITS, _NARROW, _WIDE = "uint32", "uint8", "float32"


@dataclass(frozen=True)
class _Format:
    """Floats of 8 bits: the bits of a mantissa, what is added to an exponent, and what stands for what is too large, and for no number."""

    mantissa: int
    bias: int
    overflow: int
    nan: int
    largest: int
    """The bits, as float32, of the largest number that is not too large."""


FORMATS = {
    "float8_e4m3fn": _Format(3, 7, 0x7F, 0x7F, 0x43E80000),
    "float8_e5m2": _Format(2, 15, 0x7C, 0x7E, 0x476FFFFF),
}


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.CastFloats8")
class CastFloats8:
    """Casts to floats of 8 bits round to the nearest, ties to even, as ml_dtypes does; numbers that are too large are what they are there.

    Arithmetic is not touched: `WidenHalf` leaves nothing but casts, constants and choices of them. What is rounded and read again within
    one kernel is rounded once, at its end, as TVM has it for these types.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func` with all of these as whole numbers."""
        rows = [(tirx.Cast, _cast), (tirx.FloatImm, _constant), (tirx.Select, _select), (tvm.ir.Call, _if)]
        body = tvm_ffi.structural_mutate(func.body, rows)
        return func if body.same_as(func.body) else func.with_body(body)


def _cast(node: Any, mutator: Any) -> Any:
    kind, value = str(node.ty.dtype), node.value
    while isinstance(value, tirx.Cast) and (_of(value) in FORMATS or (_of(value) == _WIDE and kind == _of(value.value) in FORMATS)):
        value = value.value  # TVM's own casts that round, or round what is rounded
    if _of(value) == kind:
        return mutator.mutate(value)
    given, wanted = FORMATS.get(_of(value)), FORMATS.get(kind)
    value = mutator.mutate(value)
    if given is not None:
        value = _decoded(tirx.reinterpret(_NARROW, value), given)
    if wanted is not None:
        wide = value if _of(value) == _WIDE else tirx.Cast(_WIDE, value)
        return tirx.reinterpret(kind, _encoded(tirx.reinterpret(_BITS, wide), wanted))
    return value if _of(value) == kind else tirx.Cast(kind, value)


def _constant(node: Any, _mutator: Any) -> Any:
    if _of(node) not in FORMATS:
        return node
    bits = np.asarray(node.value, getattr(ml_dtypes, _of(node))).view(_NARROW)
    return tirx.reinterpret(_of(node), tirx.const(int(bits), _NARROW))


def _select(node: Any, mutator: Any) -> Any:
    node = mutator.default_mutate(node)
    if _of(node) not in FORMATS:
        return node
    yes, no = (tirx.reinterpret(_NARROW, value) for value in (node.true_value, node.false_value))
    return tirx.reinterpret(_of(node), tirx.Select(node.condition, yes, no))


def _if(node: Any, mutator: Any) -> Any:
    node = mutator.default_mutate(node)
    if _of(node) not in FORMATS or not node.op.same_as(_IF):
        return node
    return tirx.reinterpret(_of(node), tirx.if_then_else(node.args[0], *(tirx.reinterpret(_NARROW, value) for value in node.args[1:])))


def _of(value: Any) -> str:
    """The type of a value."""
    return str(getattr(value.ty, "dtype", ""))


def _encoded(bits: Any, to: _Format) -> Any:
    """The 8 bits of a float32, given as its bits."""
    shift = 23 - to.mantissa
    size = bits & _u32(0x7FFFFFFF)
    normal = ((size + _u32((1 << shift - 1) - 1) + ((size >> _u32(shift)) & _u32(1))) >> _u32(shift)) - _u32((127 - to.bias) << to.mantissa)
    # The last bit of this number is worth as much as that of the smallest ones of 8 bits: the sum is rounded as they are.
    unit = np.float32(2.0 ** (23 + 1 - to.bias - to.mantissa))
    small = tirx.reinterpret(_BITS, tirx.reinterpret(_WIDE, size) + tirx.const(unit, _WIDE)) - _u32(int(unit.view(_BITS)))
    found = tirx.Select(size < _u32(128 - to.bias << 23), small, normal)
    found = tirx.Select(size > _u32(to.largest), _u32(to.overflow), found)
    if to.overflow != to.nan:
        found = tirx.Select(size > _u32(0x7F800000), _u32(to.nan), found)
    return tirx.Cast(_NARROW, ((bits >> _u32(24)) & _u32(0x80)) | found)


def _decoded(bits: Any, of: _Format) -> Any:
    """The float32 of 8 bits: these bits, where the exponent begins, are a number that a power of two is the factor to."""
    wide = tirx.Cast(_BITS, bits)
    size, sign = wide & _u32(0x7F), (wide & _u32(0x80)) << _u32(24)
    number = tirx.reinterpret(_WIDE, size << _u32(23 - of.mantissa)) * tirx.const(2.0 ** (127 - of.bias), _WIDE)
    found = tirx.Select(size < _u32(of.overflow), tirx.reinterpret(_BITS, number), _u32(0x7FC00000))
    if of.overflow != of.nan:
        found = tirx.Select(tirx.EQ(size, _u32(of.overflow)), _u32(0x7F800000), found)
    return tirx.reinterpret(_WIDE, sign | found)


def _u32(value: int) -> Any:
    return tirx.const(value, _BITS)
