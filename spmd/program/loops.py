"""Loops, which in Relax are private functions that call themselves: which of them the graph holds, each with its body once.

Others, such as those that write in place or carry objects, run whole on every worker (`opaque`).
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.ir.inline import IN_PLACE, called, is_foreign, is_public, reached

_EFFECTS = (*IN_PLACE, "relax.call_dps_packed", "relax.call_pure_packed")
"""Operators that write, or may give what they are given: a loop with one of these runs as it stands."""


def loops(mod: tvm.IRModule, public: set[str]) -> dict[str, relax.Function]:
    """The private functions that call themselves, directly or not, and are reached from `public` ones, by name in order."""
    functions = {var.name_hint: f for var, f in mod.functions_items() if isinstance(f, relax.Function)}
    if functions.keys() <= public:
        return {}
    calls = {name: called(f) & functions.keys() for name, f in functions.items()}
    within = {name for start in public for name in reached(start, calls)} - public
    found = {n: functions[n] for n in sorted(within) if n in reached(n, calls) and not is_public(functions[n])}
    while plain := {n: f for n, f in found.items() if _is_plain(f) and calls[n] <= found.keys()}:
        if len(plain) == len(found):
            return found
        found = plain
    return {}


def _is_plain(function: relax.Function) -> bool:
    """Whether a function takes and returns tensors of known rank and sizes, and has no effects."""
    types = [*(param.ty for param in function.params), function.ret_ty]
    if is_foreign(function) or not function.is_pure or not function.params or not all(map(_is_tensors, types)):
        return False
    effects: list[Any] = []
    tvm_ffi.structural_walk(function.body, ((tvm.ir.Call,), lambda call: effects.append(call) if _has_effect(call) else None))
    return not effects


def _is_tensors(ty: Any) -> bool:
    if isinstance(ty, relax.TupleType):
        return all(map(_is_tensors, ty.fields))
    return isinstance(ty, relax.TensorType) and (ty.ndim == 0 or isinstance(ty.shape, relax.ShapeExpr))


def _has_effect(call: Any) -> bool:
    return isinstance(call.op, relax.ExternFunc) or (isinstance(call.op, tvm.ir.Op) and call.op.name in _EFFECTS)
