"""Whole numbers that do not fit their type wrap: TVM 0.27 takes bounds from them as if they did fit, once kernels are put together."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from .indices import reads_memory
from .scheduling import is_scheduled

_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul)
_INDEX = ("int32", "int64")
"""Types of which TVM says that their arithmetic does not overflow."""
_ENDLESS = 2**63 - 1
"""The largest bound of TVM's: that number or more."""


@tirx.transform.prim_func_pass(opt_level=0, name="spmd.WrapIntegers")
class WrapIntegers:
    """What wraps is hidden from the analysis of bounds: casts of data to types that may not hold it, and sums and products of narrow types.

    Else ``int64(int8(max(x, 0) * 64)) // 128`` is 0 to TVM, where an `x` of 2 makes -1 of it.
    """

    def transform_function(self, func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tirx.PrimFunc:
        """`func`, in which such values are reinterpreted, unless somebody has decided its loops."""
        if is_scheduled(func):
            return func
        body = tvm_ffi.structural_mutate(
            func.body, [(tirx.Cast, _cast), *((kind, _arithmetic) for kind in _ARITHMETIC), (tirx.BufferStore, _stored)]
        )
        return func if body.same_as(func.body) else func.with_body(body)


def _cast(node: Any, mutator: Any) -> Any:
    node = mutator.default_mutate(node)
    kind, value = str(node.ty.dtype), node.value
    is_whole = "int" in kind and "int" in str(value.ty.dtype)
    return tirx.Cast(kind, _hidden(value)) if is_whole and _may_wrap(value, kind) else node


def _arithmetic(node: Any, mutator: Any) -> Any:
    node = mutator.default_mutate(node)
    kind = str(node.ty.dtype)
    return _hidden(node) if "int" in kind and kind not in _INDEX and _may_wrap(node, kind) else node


def _stored(store: Any, mutator: Any) -> Any:
    """A sum keeps the form by which schedules know a reduction: nothing is fused into what updates its own buffer."""
    value = store.value
    sides = (value.a, value.b) if isinstance(value, _ARITHMETIC) else ()
    if not any(isinstance(side, TensorLoad) and side.source.same_as(store.buffer) for side in sides):
        return mutator.default_mutate(store)
    return tirx.BufferStore(store.buffer, type(value)(*map(mutator.mutate, sides)), store.indices)


def _may_wrap(value: Any, kind: str) -> bool:
    """Whether `value` may be out of the range of `kind`. What it reads may be computed in its place later, and have other bounds."""
    if not reads_memory(value):
        return False  # an index, which fits
    bound, (least, most) = tvm.sym.Analyzer().const_int_bound(value), _range(kind)
    endless = str(value.ty.dtype) == "uint64" and bound.max_value == _ENDLESS
    return endless or bound.min_value < least or bound.max_value > most


def _range(kind: str) -> tuple[int, int]:
    bits = int(kind.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _hidden(value: Any) -> Any:
    """By way of the type of the other sign: TVM drops what is reinterpreted as what it is."""
    kind = str(value.ty.dtype)
    other = kind.removeprefix("u") if kind.startswith("u") else f"u{kind}"
    return tirx.call_intrin(kind, "tirx.reinterpret", tirx.call_intrin(other, "tirx.reinterpret", value))
