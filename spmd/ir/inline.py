"""Private functions put in the place of their calls, so that what they do is sharded like everything else."""

from __future__ import annotations

from collections.abc import KeysView, Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

_KEPT = ("Codegen", "Composite")
"""Attributes of functions that another compiler takes as they are."""
IN_PLACE = ("relax.call_tir_inplace", "relax.call_inplace_packed")
"""Operators that write, and that TVM calls pure."""
_STANDS_FOR = "spmd.inlined."
"""How the names of packed functions begin that stand for what writes, so that no other has such a name."""


def inlined(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` with its private Relax functions inlined into the public ones, but for recursive ones; `mod` is not changed."""
    functions = {gv.name_hint: f for gv, f in mod.functions.items() if isinstance(f, relax.Function)}
    private = {n: f for n, f in functions.items() if not is_public(f) and not is_foreign(f)}
    if not private:
        return mod
    calls = {name: called(f) & functions.keys() for name, f in functions.items()}
    recursive = {name for name in private if name in reached(name, calls)}
    writers = {name for name in recursive if any(_writes(functions[n]) for n in reached(name, calls))}
    kept = {gv.name_hint: gv for gv in mod.functions if gv.name_hint in writers}
    wanted: Any = {n: _impure(f, kept) for n, f in private.items() if n not in recursive}
    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)
    for name, function in functions.items():
        if name not in private and called(function) & wanted.keys():
            result.update_func(result.get_global_var(name), _pure(_impure(function, kept).inline_functions(wanted), kept))
    return result


def _writes(function: relax.Function) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tvm.ir.Call, lambda call: found.append(call.op)))
    return any(isinstance(op, tvm.ir.Op) and op.name in IN_PLACE for op in found)


def _impure(function: relax.Function, writers: Mapping[str, tvm.ir.GlobalVar]) -> relax.Function:
    """The function with calls of packed functions for what writes in place, `writers` too: inlining drops what is pure and unread."""

    def see(call: tvm.ir.Call, mutator: Any) -> Any:
        call = mutator.default_mutate(call)
        if isinstance(call.op, tvm.ir.GlobalVar) and call.op.name_hint in writers:
            return tvm.ir.Call(relax.ExternFunc(_STANDS_FOR + call.op.name_hint), call.args, call.attrs, [call.ty], call.span)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name not in IN_PLACE:
            return call
        return tvm.ir.Call(relax.ExternFunc(_STANDS_FOR + call.op.name), call.args, call.attrs, call.ty_args, call.span)

    return tvm_ffi.structural_mutate(function, [(tvm.ir.Call, see)])


def _pure(function: relax.Function, writers: Mapping[str, tvm.ir.GlobalVar]) -> relax.Function:
    """What `_impure` was given, again."""

    def see(call: tvm.ir.Call, mutator: Any) -> Any:
        call = mutator.default_mutate(call)
        symbol = str(call.op.global_symbol) if isinstance(call.op, relax.ExternFunc) else ""
        if not symbol.startswith(_STANDS_FOR):
            return call
        name = symbol.removeprefix(_STANDS_FOR)
        if name in writers:
            return tvm.ir.Call(writers[name], call.args, call.attrs, [], call.span)
        return tvm.ir.Call(tvm.ir.Op.get(name), call.args, call.attrs, call.ty_args, call.span)

    return tvm_ffi.structural_mutate(function, [(tvm.ir.Call, see)])


def is_public(function: relax.Function) -> bool:
    """Whether it can be called from outside."""
    return bool(function.attrs and "global_symbol" in function.attrs)


def is_foreign(function: relax.Function) -> bool:
    """Whether another compiler takes it as it is."""
    return bool(function.attrs and any(a in function.attrs for a in _KEPT))


def inline_private() -> tvm.transform.Pass:
    """`inlined` as a pass."""

    @tvm.transform.module_pass(opt_level=0, name="spmd.inline_private")
    def run(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        return inlined(mod)

    return run


def called(function: relax.Function) -> KeysView[str]:
    """The names of the functions that `function` calls, or hands on, in order."""
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tvm.ir.GlobalVar, found.append))
    return dict.fromkeys(var.name_hint for var in found).keys()


def reached(start: str, calls: dict[str, set[str]]) -> set[str]:
    """Every function that `start` calls, directly or not."""
    found: set[str] = set()
    waiting = set(calls[start])
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= calls[name] - found
    return found
