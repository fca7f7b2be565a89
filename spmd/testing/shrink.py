"""A failing program made small: what can be left out while it still fails is left out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from spmd import checks
from spmd.annotate import Specs, specs_of
from spmd.ir.inline import inlined
from spmd.ir.lift import LIFT
from spmd.placement.mesh import Mesh
from spmd.run.signatures import signatures

_ROUNDS = 40
_AT_ONCE = 24
"""Candidates that are tried together."""


@dataclass(frozen=True)
class Case:
    """A program with the mesh and the specs that it is sharded by, the sizes that its symbols stand for, what divides them, and from what
    size on its constants are weights.
    """

    mod: tvm.IRModule
    mesh: Mesh
    specs: Specs = field(default_factory=dict[str, Any])
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    divisible: Mapping[str, int] = field(default_factory=dict[str, int])
    lift: int = LIFT

    def __post_init__(self) -> None:
        checks.module("Case, mod", self.mod)
        checks.instance(Mesh, "Write Mesh(tp=2).")("Case, mesh", self.mesh)
        specs_of("Case, specs", self.specs)
        checks.sizes("Case, sizes", self.sizes)

    def __str__(self) -> str:
        """The program as TVMScript, and the call that fails."""
        text = self.mod.script()
        if 'metadata["' in text:
            text = self.mod.script(show_meta=True)
        more = f", lift={self.lift}" if self.lift != LIFT else ""
        for name, said in (("divisible", self.divisible), ("sizes", self.sizes)):
            used = {symbol: number for symbol, number in said.items() if re.search(rf"\b{symbol}\b", text)}
            more = (f", {name}={used}" if used else "") + more
        return f"{text}\nassert_equivalent(Module, {self.mesh}, {dict(self.specs)}{more})"

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Functions, operators, parameters, and specs with workers."""
        functions = [f for _, f in self.mod.functions_items() if isinstance(f, relax.Function)]
        return (
            len(functions),
            sum(len(block.bindings) for f in functions for block in f.body.blocks),
            sum(len(f.params) for f in functions),
            len(self.specs) + self.mesh.size + sum("num_input" in f.attrs for f in functions),
        )


def smallest(case: Case, fails: Callable[[Sequence[Case]], set[int]], deadline: float) -> Case:
    """The smallest case found that `fails` as `case` does, before `deadline` (of `time.monotonic`).

    `fails` says which of several cases do, by number.
    """
    for _ in range(_ROUNDS):
        tried: list[Case] = []
        for candidate in _candidates(case):
            if candidate.size < case.size:
                tried.append(candidate)
        tried.sort(key=lambda c: c.size)
        found = next((c for c in _failing(tried, fails, deadline)), None)
        if found is None:
            return case
        case = found
    return case


def _failing(tried: list[Case], fails: Callable[[Sequence[Case]], set[int]], deadline: float) -> Iterator[Case]:
    """Those of `tried` that fail, the smallest first."""
    for start in range(0, len(tried), _AT_ONCE):
        if time.monotonic() > deadline:
            return
        part = tried[start : start + _AT_ONCE]
        if any(_has_weights(c.mod) for c in part):  # which functions share by name
            yield from (c for c in part if time.monotonic() < deadline and fails([c]))
            continue
        wrong = fails([_renamed(c, f"_{i}") for i, c in enumerate(part)])
        yield from (part[i] for i in sorted(wrong) if fails([part[i]]))


def _candidates(case: Case) -> Iterator[Case]:
    public = {gv: f for gv, f in case.mod.functions_items() if isinstance(f, relax.Function) and "global_symbol" in (f.attrs or {})}
    if len(public) > 1:
        for gone in public:
            yield _case(case, {gv: f for gv, f in case.mod.functions_items() if gv.name_hint != gone.name_hint})
        return
    for name in case.specs:
        yield replace(case, specs={k: v for k, v in case.specs.items() if k != name})
    if case.mesh.size > 2 and list(case.mesh.axes) == ["tp"]:
        yield replace(case, mesh=Mesh(tp=2))
    plain = inlined(case.mod)
    ((variable, function),) = [
        (gv, f) for gv, f in plain.functions_items() if isinstance(f, relax.Function) and "global_symbol" in (f.attrs or {})
    ]
    others = {gv: f for gv, f in plain.functions_items() if not isinstance(f, relax.Function)}
    for made in _smaller(function):
        called: list[Any] = []
        tvm_ffi.structural_walk(made, (tvm.ir.GlobalVar, called.append))
        used = {gv.name_hint for gv in called}
        yield _case(case, {variable: made, **{gv: f for gv, f in others.items() if gv.name_hint in used}})


def _smaller(function: relax.Function) -> Iterator[relax.Function]:
    """Functions with less in them."""
    if "num_input" in function.attrs:
        yield _without_weights(function)
    bindings = [b for block in function.body.blocks for b in block.bindings]
    result = function.body.body
    yield _rebuilt(function, {}, result)
    for binding in bindings:
        if isinstance(binding.var.ty, relax.TensorType):
            yield _rebuilt(function, {}, binding.var)
    for i, binding in enumerate(bindings):
        if isinstance(binding.var.ty, relax.TensorType) and isinstance(binding.value, tvm.ir.Call | relax.If | relax.TupleGetItem):
            yield _rebuilt(function, {hash(binding.var): relax.Var(f"c{i}", binding.var.ty)}, result)
            for other in relax.analysis.free_vars(binding.value):
                if isinstance(other.ty, relax.TensorType) and tvm_ffi.structural_equal(other.ty, binding.var.ty):
                    yield _rebuilt(function, {hash(binding.var): other}, result)


def _rebuilt(function: relax.Function, instead: Mapping[int, Any], result: Any) -> relax.Function:
    """`function` with values in the place of what some variables are bound to, for another result, without what nothing uses."""
    new = [v for v in instead.values() if not isinstance(v, relax.DataflowVar)]
    live = {hash(v) for v in relax.analysis.free_vars(result)}
    blocks: list[Any] = []
    for block in reversed(function.body.blocks):
        kept: list[Any] = []
        if isinstance(result, relax.DataflowVar) and any(hash(b.var) == hash(result) for b in block.bindings):
            out = relax.Var("out", result.ty)
            kept.append(relax.VarBinding(out, result))
            result = out
        for binding in reversed(block.bindings):
            if hash(binding.var) in live:
                if hash(binding.var) in instead:
                    binding = relax.VarBinding(binding.var, instead[hash(binding.var)])
                live |= {hash(v) for v in relax.analysis.free_vars(binding.value)}
                kept.append(binding)
        if kept:
            blocks.append((relax.DataflowBlock if isinstance(block, relax.DataflowBlock) else relax.BindingBlock)(kept[::-1]))
    known = {hash(p) for p in function.params}
    params = [p for p in (*function.params, *(v for v in new if hash(v) not in known)) if hash(p) in live]
    return relax.Function(params, relax.SeqExpr(blocks[::-1], result), result.ty, function.is_pure, function.attrs)


def _without_weights(function: relax.Function) -> relax.Function:
    attrs = {k: v for k, v in function.attrs.items() if k != "num_input"}
    return relax.Function(function.params, function.body, function.ret_ty, function.is_pure, tvm.ir.make_node("ir.DictAttrs", **attrs))


def _case(case: Case, functions: dict[Any, Any]) -> Case:
    """The case with other functions, and the specs that are still about something."""
    mod = relax.transform.Normalize()(tvm.IRModule(functions))
    kept: dict[str, Any] = {}
    before = signatures(case.mod)
    for name, signature in signatures(mod).items():
        same = str(signature.outputs) == str(before[name].outputs)
        values = {p.name for p in mod[name].params} | {b.var.name for block in mod[name].body.blocks for b in block.bindings}
        for key, spec in case.specs.items():
            function, _, value = key.rpartition(".")
            if (value.startswith("return") and function == name and same) or value in values:
                kept[key if function or signature.num_input is not None else f"{name}.{key}"] = spec
    return replace(case, mod=mod, specs=kept)


def _renamed(case: Case, suffix: str) -> Case:
    """The case with another name for its function."""
    functions: dict[Any, Any] = {}
    specs = dict(case.specs)
    for variable, function in case.mod.functions_items():
        if isinstance(function, relax.Function):
            name = variable.name_hint
            functions[tvm.ir.GlobalVar(name + suffix)] = function.with_attr("global_symbol", name + suffix)
            specs = {name + suffix + k.removeprefix(name) if k.startswith(f"{name}.") else k: p for k, p in specs.items()}
        else:
            functions[variable] = function
    return replace(case, mod=tvm.IRModule(functions), specs=specs)


def _has_weights(mod: tvm.IRModule) -> bool:
    return any(s.num_input is not None for s in signatures(mod).values())
