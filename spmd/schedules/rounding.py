"""Casts to floats that a target has no arithmetic for: TVM computes these types in float32, and forgets what a cast would round off."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import TensorLoad

from .scheduling import is_scheduled

_PATTERN, _OPAQUE = "op_pattern", 8
"""The attribute by which TVM fuses kernels, and its value for one that stays alone."""


@tvm.transform.module_pass(opt_level=0, name="spmd.KeepRounding")
class KeepRounding:
    """What is cast to bfloat16 or to fewer bits, and cast back by who reads it, is a kernel of its own.

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
            made: dict[Any, tvm.ir.GlobalVar] = {}
            for call, var in _calls(function):
                kernel, given = call.args[0], call.args[1]
                back = _casts(kernels[kernel])[1] if kernel in kernels else []
                found.update(made[arg] for place, arg in enumerate(given.fields) if arg in made and place in back)
                if kernel in rounding:
                    made[var] = kernel
        if not found:
            return mod
        functions = {gv: f.with_attr(_PATTERN, _OPAQUE) if gv in found else f for gv, f in mod.functions_items()}
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _calls(function: relax.Function) -> list[tuple[Any, relax.Var]]:
    """The calls of kernels by a function, in order, and what they make."""
    found: list[tuple[Any, relax.Var]] = []

    def see(binding: relax.VarBinding) -> None:
        call: Any = binding.value
        if isinstance(call, relax.Call) and str(getattr(call.op, "name", "")) == "relax.call_tir" and isinstance(call.args[1], relax.Tuple):
            found.append((call, binding.var))

    tvm_ffi.structural_walk(function.body, ((relax.VarBinding,), see))
    return found


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
    narrow = kind == "bfloat16" or kind.startswith(("float8", "float6", "float4"))
    return narrow and (wide in ("float32", "float64") or (wide == "float16" and kind != "bfloat16"))
