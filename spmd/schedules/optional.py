"""Optimizations that TVM refuses for some function are left out there, and nowhere else: no valid program fails for want of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx

_LOG = logging.getLogger("spmd")
_CALL_TIR = tvm.ir.Op.get("relax.call_tir")
_FUSE = relax.transform.FuseTIR()


@tvm.transform.module_pass(opt_level=0, name="spmd.Optional")
class Optional:
    """`step`, but for the functions of `kind` on which it fails: they stay as they are, and that is logged.

    `step` must change functions one by one; it is run once where nothing fails, and on halves of the functions where something does.
    """

    def __init__(self, step: tvm.transform.Pass, kind: type[Any] = relax.Function) -> None:
        self.step, self.kind = step, kind

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module; `mod` stays as it is."""
        try:
            return self.step(mod)
        except Exception as error:
            first = error
        names = sorted(gv.name_hint for gv, f in mod.functions_items() if isinstance(f, self.kind))
        reasons = refused(names, lambda some: self.step(_without(mod, set(names) - set(some))))
        if not reasons:  # none alone, but all together: something else than a function
            reasons = dict.fromkeys(names, first)
        for name, reason in reasons.items():
            _LOG.warning("%r: %s fails and is left out (%s)", name, self.step.info.name, said(reason))
        return _restored(self.step(_without(mod, reasons)), mod, reasons)


@tvm.transform.module_pass(opt_level=0, name="spmd.FuseGroups")
class FuseGroups:
    """`FuseTIR`, but for the groups (functions marked ``Primitive``) that it refuses: they are taken apart again, and that is logged.

    A group of no kernel at all, which FuseOps makes of the fields of nested tuples, is taken apart in silence.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module with a kernel for each group; `mod` stays as it is."""
        mod = taken_apart(mod, [gv.name_hint for gv, f in mod.functions_items() if is_group(f) and not _calls_kernels(f)])
        try:
            return _FUSE(mod)
        except Exception as error:
            first = error
        kernels = {gv: f for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)}
        names = {gv.name_hint: gv for gv, f in mod.functions_items() if is_group(f)}

        def fuse(some: Sequence[str]) -> None:
            groups = {names[name]: mod[name] for name in some}
            callers = {tvm.ir.GlobalVar(f"call_{gv.name_hint}"): _caller(gv, f) for gv, f in groups.items()}
            _FUSE(tvm.IRModule({**kernels, **groups, **callers}))

        reasons = refused(sorted(names), fuse)
        if not reasons:
            reasons = dict.fromkeys(names, first)
        for name, reason in reasons.items():
            _LOG.warning("%r: TVM cannot make one kernel of this group, and its kernels stay apart (%s)", name, said(reason))
        return _FUSE(taken_apart(mod, reasons))


def refused(names: Sequence[str], run: Callable[[Sequence[str]], Any]) -> dict[str, Exception]:
    """Which of `names` `run` fails on, and with what error, found by halves: few runs where few fail."""
    try:
        run(names)
        return {}
    except Exception as error:
        if len(names) < 2:
            return dict.fromkeys(names, error)
    half = len(names) // 2
    return {**refused(names[:half], run), **refused(names[half:], run)}


def taken_apart(mod: tvm.IRModule, groups: Iterable[str]) -> tvm.IRModule:
    """`mod` with these functions inlined wherever they are called; `mod` stays as it is."""
    wanted: Any = {name: mod[name].without_attr("Primitive") for name in groups}
    if not wanted:
        return mod
    functions = dict(mod.functions_items())
    for gv, function in functions.items():
        if isinstance(function, relax.Function) and gv.name_hint not in wanted and _reads(function, wanted):
            functions[gv] = function.inline_functions(wanted)
    left = {gv: f for gv, f in functions.items() if gv.name_hint not in wanted}
    return tvm.IRModule(left, attrs=mod.attrs, global_infos=mod.global_infos)


def is_group(function: Any) -> bool:
    """Whether FuseTIR is to make one kernel of a function."""
    return isinstance(function, relax.Function) and bool(function.attrs) and bool(function.attrs.get("Primitive", 0))


def said(error: Exception) -> str:
    """An error on one line: of TVM's, the line that says what is wrong."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    return f"{type(error).__name__}: {next((line for line in lines if 'Check failed' in line), lines[0])}"[:300]


def _calls_kernels(function: relax.Function) -> bool:
    found = False

    def see(call: tvm.ir.Call) -> None:
        nonlocal found
        found |= call.op == _CALL_TIR

    tvm_ffi.structural_walk(function.body, (tvm.ir.Call, see))
    return found


def _caller(name: tvm.ir.GlobalVar, group: relax.Function) -> relax.Function:
    """A public function that calls a group, as FuseTIR looks at what is called alone."""
    params = relax.utils.copy_with_new_vars(group).params
    result = relax.Var("result", group.ret_ty)
    body = relax.SeqExpr([relax.BindingBlock([relax.VarBinding(result, relax.Call(name, params))])], result)
    return relax.Function(params, body, group.ret_ty).with_attr("global_symbol", f"call_{name.name_hint}")


def _reads(function: relax.Function, names: Iterable[str]) -> bool:
    found: set[str] = set()
    tvm_ffi.structural_walk(function.body, (tvm.ir.GlobalVar, lambda var: found.add(var.name_hint)))
    return not found.isdisjoint(names)


def _without(mod: tvm.IRModule, names: Iterable[str]) -> tvm.IRModule:
    """`mod` with functions of Relax that stand for these, and nothing of their bodies: passes leave them as they are."""
    functions = dict(mod.functions_items())
    hidden = set(names)
    for gv, function in list(functions.items()):
        if gv.name_hint in hidden:
            functions[gv] = relax.ExternFunc(gv.name_hint, function.ty) if isinstance(function, relax.Function) else _EMPTY
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _restored(made: tvm.IRModule, mod: tvm.IRModule, names: Iterable[str]) -> tvm.IRModule:
    """`made` with these functions as they are in `mod`, and what they call."""
    functions = {gv.name_hint: (gv, f) for gv, f in made.functions_items()}
    before = {gv.name_hint: (gv, f) for gv, f in mod.functions_items()}
    own = set(names)
    functions.update({name: pair for name, pair in before.items() if name in own or name not in functions})
    return tvm.IRModule(dict(functions.values()), attrs=made.attrs, global_infos=made.global_infos)


_EMPTY = tirx.PrimFunc([], tirx.Evaluate(0))
