"""The pass that gives every unscheduled PrimFunc its CPU loops."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.s_tir import Schedule
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.target import Target

from spmd.schedules.cpu import default_rules
from spmd.schedules.cpu.analysis import is_refusal

SCHEDULED = "tirx.is_scheduled"
RULE = "spmd.schedule_rule"  # the name of the rule that decided a function's loops


@tvm.transform.module_pass(opt_level=0, name="spmd.CPUSchedules")
class CPUSchedules:
    """Apply the first rule that answers to each PrimFunc that is not marked `tirx.is_scheduled`.

    `parallel`: emit `T.parallel` loops. `rules`: others than the default ones, the fallback last.
    Functions of equal structure are scheduled once. A function that no rule takes stays as it is.
    """

    def __init__(self, *, parallel: bool = False, rules: Sequence[ScheduleRule] | None = None):
        self.rules = list(default_rules(parallel) if rules is None else rules)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module; `mod` stays as it is."""
        target = Target.current(allow_none=True) or Target({"kind": "llvm"})
        functions = dict(mod.functions_items())
        done: dict[tvm_ffi.StructuralKey, tirx.PrimFunc] = {}
        for name, func in functions.items():
            if not isinstance(func, tirx.PrimFunc) or is_scheduled(func):
                continue
            # The name is no part of the structure that decides the loops.
            key = tvm_ffi.StructuralKey(func.without_attr("global_symbol"))
            if key not in done:
                done[key] = self._schedule(func, target)
            scheduled = done[key]
            symbol = func.attrs.get("global_symbol") if func.attrs else None
            functions[name] = scheduled if symbol is None else scheduled.with_attr("global_symbol", symbol)
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)

    def _schedule(self, func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
        for rule in () if has_narrow_floats(func) else self.rules:
            schedule = attempt(rule, func, target)
            if schedule is not None:
                bare = schedule.mod["main"].without_attr("global_symbol")
                return bare.with_attrs({SCHEDULED: True, RULE: type(rule).__name__})
        return func.without_attr("global_symbol")


def attempt(rule: ScheduleRule, func: tirx.PrimFunc, target: Target) -> Schedule | None:
    """The rule's schedule, or None where it does not apply: a primitive that TVM refuses means just that."""
    try:
        answer = rule.apply(func, target, False)
    except Exception as error:
        if is_refusal(error):
            return None
        raise
    return answer[0] if isinstance(answer, list) else answer


def has_narrow_floats(func: tirx.PrimFunc) -> bool:
    """Whether `func` works on floats of 8 bits, whose arithmetic TVM spells out in a way that cannot be vectorized."""
    found = False

    def see(load: TensorLoad) -> None:
        nonlocal found
        found |= "float8" in str(load.ty.dtype)

    tvm_ffi.structural_walk(func.body, (TensorLoad, see))
    return found


def is_scheduled(func: tirx.PrimFunc) -> bool:
    """Whether somebody has already decided the loops of `func`."""
    return bool(func.attrs) and bool(func.attrs.get(SCHEDULED, False))
