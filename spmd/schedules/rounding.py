"""Casts to floats that a target has no arithmetic for: TVM computes these types in float32, and forgets what a cast would round off."""

from __future__ import annotations

import re
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import TensorLoad

from spmd.ir.expressions import intrinsic

from .scheduling import is_scheduled

_IN_FLOAT32 = ("bfloat16", "float8", "float6", "float4")
"""Types that TVM computes in float32."""
_PATTERN, _OPAQUE = "op_pattern", 8
"""The attribute by which TVM fuses kernels, and its value for one that stays alone."""


@tvm.transform.module_pass(opt_level=0, name="spmd.KeepRounding")
class KeepRounding:
    """What is cast to bfloat16 or to fewer bits, and cast back by who reads it, is a kernel of its own; so it is where what moves it, or
    takes the larger of two, stands between.

    Within one kernel TVM 0.27 makes `x` of ``float32(bfloat16(x))``, even by way of a buffer. Arithmetic in bfloat16 is fused: it is done
    in float32, and rounded once.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module, the same one where nothing is cast back; `mod` stays as it is."""
        kernels = {gv: f for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc) and not is_scheduled(f)}
        rounding = {gv for gv, f in kernels.items() if _casts(f)[0]}
        if not rounding:
            return mod
        found: set[tvm.ir.GlobalVar] = set()
        for function in (f for _, f in mod.functions_items() if isinstance(f, relax.Function)):
            made: dict[Any, set[tvm.ir.GlobalVar]] = {}
            for kernel, given, var in _calls(function):
                before = [made.get(arg, set[Any]()) for arg in given]
                if kernel is None or (kernel in kernels and _rounds_nothing(kernels[kernel])):
                    made[var] = set().union(*before)
                elif kernel in kernels:
                    found.update(*(before[place] for place in _casts(kernels[kernel])[1] if place < len(before)))
                if kernel in rounding:
                    made[var] = {kernel}
        if not found:
            return mod
        functions = {gv: f.with_attr(_PATTERN, _OPAQUE) if gv in found else f for gv, f in mod.functions_items()}
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _calls(function: relax.Function) -> list[tuple[tvm.ir.GlobalVar | None, list[Any], relax.Var]]:
    """The calls of kernels by a function, in order, with what they take and what they make; None for a field of what one made."""
    found: list[tuple[tvm.ir.GlobalVar | None, list[Any], relax.Var]] = []

    def see(binding: relax.VarBinding) -> None:
        call: Any = binding.value
        if isinstance(call, relax.Call) and str(getattr(call.op, "name", "")) == "relax.call_tir" and isinstance(call.args[1], relax.Tuple):
            found.append((call.args[0], list(call.args[1].fields), binding.var))
        elif isinstance(call, relax.TupleGetItem):
            found.append((None, [call.tuple_value], binding.var))

    tvm_ffi.structural_walk(function.body, ((relax.VarBinding,), see))
    return found


def _rounds_nothing(kernel: tirx.PrimFunc) -> bool:
    """Whether all that a kernel stores is what it has read, or a number."""
    stores: list[Any] = []
    tvm_ffi.structural_walk(kernel.body, (tirx.BufferStore, stores.append))
    return all(_is_chosen(store.value) for store in stores)


def _is_chosen(value: Any) -> bool:
    """Whether a value is one that was read, a number, or one of two such, the larger for example."""
    if isinstance(value, tirx.Select):
        return _is_chosen(value.true_value) and _is_chosen(value.false_value)
    if isinstance(value, tirx.Max | tirx.Min):
        return _is_chosen(value.a) and _is_chosen(value.b)
    if isinstance(value, tvm.ir.Call):
        return intrinsic(value) == "if_then_else" and all(map(_is_chosen, value.args[1:]))
    return isinstance(value, TensorLoad | tirx.FloatImm | tirx.IntImm)


def _casts(kernel: tirx.PrimFunc) -> tuple[bool, list[int]]:
    """Whether a kernel stores what it casts to fewer digits, and the places of the arguments that it casts to more."""
    rounds = False
    back: list[int] = []

    def see_store(store: tirx.BufferStore) -> None:
        nonlocal rounds
        rounds |= isinstance(store.value, tirx.Cast) and _is_narrower(store.value, store.value.value)

    def see_cast(cast: tirx.Cast) -> None:
        if isinstance(cast.value, TensorLoad) and _is_narrower(cast.value, cast):
            back.extend(place for place, param in enumerate(kernel.params) if param.same_as(cast.value.source))

    tvm_ffi.structural_walk(kernel.body, [(tirx.BufferStore, see_store), (tirx.Cast, see_cast)])
    return rounds, back


def _is_narrower(value: Any, other: Any) -> bool:
    """Whether a value is of a type that TVM computes in float32, and the other of one with more digits."""
    kind, wide = str(value.ty.dtype), str(other.ty.dtype)
    return kind.startswith(_IN_FLOAT32) and _digits(kind) < _digits(wide)


def _digits(kind: str) -> int:
    """The bits of a mantissa, with the first, which is not stored; 0 of what is no float."""
    if found := re.search(r"m(\d)", kind):
        return int(found[1]) + 1
    return {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53, "float8_e8m0fnu": 1}.get(kind, 0)
