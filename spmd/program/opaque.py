"""Functions that the graph does not look into: loops, and what another compiler takes as it is. They run whole on every worker."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd.errors import ShardingError
from spmd.ir.inline import called, reached
from spmd.ir.per_worker import already, sign_of

_HINT = "relax.spmd.hint"
_OTHERS = ("Codegen", "Composite")


def check_opaque(mod: tvm.IRModule, public: set[str]) -> None:
    """Raise `ShardingError` where a function that the graph does not look into has a hint, which nobody would obey, or a collective."""
    functions = {var.name_hint: f for var, f in mod.functions_items() if isinstance(f, relax.Function)}
    if functions.keys() <= public:
        return
    calls = {name: called(f) & functions.keys() for name, f in functions.items()}
    within = {name for start in public for name in reached(start, calls)} - public
    for name in (n for n in functions if n in within):
        check_body(functions[name], f"function {name!r}", why_opaque(mod, name) or "it is not looked into")


def check_body(function: relax.Function, where: str, why: str) -> None:
    """Raise `ShardingError` where this function has a hint or a collective; `why` says why the graph does not hold it."""
    if sign := sign_of(function):
        raise ShardingError(where, *already(sign))
    hints: list[Any] = []
    tvm_ffi.structural_walk(function.body, [((tvm.ir.Call,), lambda call: hints.append(call) if _is_hint(call) else None)])
    if hints:
        what = f"it has the hint spmd.hint({getattr(hints[0].args[0], 'name', '...')}, ...), which nobody obeys, as {why}"
        raise ShardingError(where, what, "Take the hint out, or give the specs of what the function takes where it is called.")


def why_opaque(mod: tvm.IRModule, name: str) -> str:
    """Why a call of this Relax function is replicated; empty where nothing is known but that it has no rule."""
    functions = {var.name_hint: f for var, f in mod.functions_items() if isinstance(f, relax.Function)}
    if name not in functions:
        return ""
    attrs = functions[name].attrs
    if attrs and (kind := next((a for a in _OTHERS if a in attrs), None)) is not None:
        return f"it is taken as it is by another compiler ({kind} {attrs[kind]!r})"
    if name in reached(name, {n: called(f) & functions.keys() for n, f in functions.items()}):
        return "it calls itself: a loop or a recursion runs whole on every worker, which gathers all that it takes; unroll it to split it"
    return ""


def _is_hint(call: Any) -> bool:
    return isinstance(call.op, tvm.ir.Op) and call.op.name == _HINT
