"""The passes that give every unscheduled PrimFunc its loops, on CPUs and GPUs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.target import Target

from .cpu import Matmul, default_rules
from .cpu.analysis import is_refusal
from .cpu.few_rows import by_rows
from .gpu import few_rows
from .threads import reads_of_others

SCHEDULED = "tirx.is_scheduled"
RULE = "spmd.schedule_rule"  # the name of the rule that decided a function's loops

_LOG = logging.getLogger("spmd")
_LOWERED = tvm.transform.Sequential([s_tir.transform.CanonicalizeLoop(), s_tir.transform.LowerCrossThreadReduction()])
"""The first steps after scheduling, in which TVM finds that it cannot lower some of dlight's reductions."""


class _Scheduling:
    """Apply the first rule that answers to each PrimFunc that is not marked `tirx.is_scheduled`.

    Functions of equal structure are scheduled once. A function that no rule takes stays as it is.
    """

    def __init__(self, rules: Sequence[ScheduleRule]):
        self.rules = list(rules)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """A new module; `mod` stays as it is."""
        current = Target.current(allow_none=True) or Target({"kind": "llvm"})
        functions = dict(mod.functions_items())
        done: dict[tvm_ffi.StructuralKey, tirx.PrimFunc] = {}
        for name, func in functions.items():
            if not isinstance(func, tirx.PrimFunc) or is_scheduled(func):
                continue
            # The name is no part of the structure that decides the loops.
            bare, attrs = func.without_attr("global_symbol"), func.attrs or {}
            key = tvm_ffi.StructuralKey(bare)
            if key not in done:
                done[key] = self._schedule(name.name_hint, bare, attrs.get("target") or current)
            symbol = attrs.get("global_symbol")
            functions[name] = done[key] if symbol is None else done[key].with_attr("global_symbol", symbol)
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)

    def _schedule(self, name: str, func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
        for rule in self.rules:
            found = self.attempt(rule, name, func, target)
            if found is not None:
                return found.without_attr("global_symbol").with_attrs({SCHEDULED: True, RULE: type(rule).__name__})
        return func

    def attempt(self, rule: ScheduleRule, name: str, func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc | None:
        """What the rule makes of the function `name`, or None where it does not apply."""
        raise NotImplementedError


@tvm.transform.module_pass(opt_level=0, name="spmd.CPUSchedules")
class CPUSchedules(_Scheduling):
    """Loops for CPUs, by the first rule that answers; functions that no rule takes stay as they are.

    `parallel`: emit `T.parallel` loops. `rules`: others than the default ones, the fallback last.
    """

    def __init__(self, *, parallel: bool = False, rules: Sequence[ScheduleRule] | None = None):
        super().__init__(default_rules(parallel) if rules is None else rules)
        self.parallel = parallel

    def _schedule(self, name: str, func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
        """By the first rule, and for few rows, too, where it is a product of a symbolic number of them."""
        if has_narrow_floats(func):
            return func
        whole = super()._schedule(name, func, target)
        is_product = is_scheduled(whole) and whole.attrs.get(RULE) == Matmul.__name__
        return by_rows(func, whole, self.attempt(Matmul(self.parallel, few=True), name, func, target)) if is_product else whole

    def attempt(self, rule: ScheduleRule, name: str, func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc | None:
        """A primitive that TVM refuses means that the rule does not apply; other errors are errors."""
        try:
            return applied(rule, func, target)
        except Exception as error:
            if is_refusal(error):
                return None
            raise


@tvm.transform.module_pass(opt_level=0, name="spmd.GPUSchedules")
class GPUSchedules(_Scheduling):
    """Loops for GPUs, by the first of these rules that answers with a kernel that is right; functions that no rule takes stay.

    Some of dlight's rules raise errors for kernels that they were not written for, where TVM's own pass ends; some make what TVM cannot
    lower, or what mixes up threads. Here that is logged, and the next rule is tried.
    """

    def _schedule(self, name: str, func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
        """By the first rule, and by dlight's for few rows, too, where it is a product of a symbolic number of them."""
        whole = super()._schedule(name, func, target)
        return few_rows(func, whole, lambda rule, narrow: self._tried(rule, narrow, target)[0]) if is_scheduled(whole) else whole

    def attempt(self, rule: ScheduleRule, name: str, func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc | None:
        """Whatever a rule raises means that another rule has to do it."""
        found, error = self._tried(rule, func, target)
        if error is not None:
            said = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
            _LOG.warning("kernel %r: the rule %s fails, the next one is tried (%s)", name, type(rule).__name__, said)
        return found

    def _tried(self, rule: ScheduleRule, func: tirx.PrimFunc, target: Target) -> tuple[tirx.PrimFunc | None, Exception | None]:
        """What the rule makes of a function, or None, and why it is no kernel that is right."""
        try:
            found = applied(rule, func, target)
            if found is not None:
                _LOWERED(tvm.IRModule({"main": found}))
                if buffer := reads_of_others(found):
                    raise ValueError(f"threads read what other threads have in {buffer!r}, which is local to each")
            return found, None
        except Exception as error:
            return None, error


def applied(rule: ScheduleRule, func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc | None:
    """`func` as the rule schedules it, or None where the rule does not apply."""
    answer = rule.apply(func, target, False)
    found = answer[0] if isinstance(answer, list) else answer
    return None if found is None else found.mod["main"]


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
