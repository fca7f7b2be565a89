"""``spmd.hint(x, P("tp", None))`` inside a model: an identity operator that carries a spec."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax import script as _script
from tvm.relax.frontend import nn
from tvm.relax.op.base import register_gradient
from tvm.relax.script import parser as _parser

from spmd.checks import told
from spmd.errors import ShardingError
from spmd.placement.spec import P, Remat
from spmd.program.graph import Graph

HINT = "relax.spmd.hint"
REMAT = "remat"
"""What stands in the place of a spec where a value is to be made again."""


def hint(x: Any, spec: P) -> Any:
    """`x` itself, with the wish that it be sharded as `spec`; `x` is a Relax expression or an ``nn.Tensor``.

    The module stays runnable on one device: the operator legalizes to nothing.
    """
    if not isinstance(spec, P):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ShardingError("spmd.hint()", f"{told(spec)} is no spmd.P", "Write spmd.hint(x, P('tp', None)).")
    if not isinstance(x, nn.Tensor | tvm.ir.Expr):
        way_out = "It stands inside of a model: give it a tensor of tvm.relax.frontend.nn, or a Relax expression."
        raise ShardingError("spmd.hint()", f"it takes a value of the program, and got {told(x)}", way_out)
    if isinstance(x, nn.Tensor):
        return nn.op.wrap_nested(hint(x._expr, spec), "hint")  # pyright: ignore[reportPrivateUsage]
    return tvm.ir.Call(_OP, [x], tvm.ir.make_node("ir.DictAttrs", spec=_write(spec)))


def remat(x: Any = None) -> Any:
    """Make a value again for who reads it late, and do not hold it until then: a training step holds less, and takes longer.

    ``spmd.remat(x)`` inside of a model is `x` itself with that wish, where `x` is a Relax expression or an ``nn.Tensor``.
    ``spmd.remat()`` is the spec that says so by name: ``{"step.silu*": spmd.remat()}``. What makes the value runs again before the first
    operator behind the longest pause between two that read it, which in a training step is the backward part; what it is made of is held
    until then, unless that is made again, too. Numbers are the same. With `memory=`, the planner does so by itself where it must.
    Raises `ShardingError` for what is no value of a model; a value that cannot be made again is an error when it is planned.
    """
    if x is None:
        return Remat()
    if not isinstance(x, nn.Tensor | tvm.ir.Expr):
        way_out = "Give it a tensor of tvm.relax.frontend.nn, or a Relax expression; spmd.remat() alone is a spec."
        raise ShardingError("spmd.remat()", f"it takes a value of the program, and got {told(x)}", way_out)
    if isinstance(x, nn.Tensor):
        return nn.op.wrap_nested(remat(x._expr), "remat")  # pyright: ignore[reportPrivateUsage]
    return tvm.ir.Call(_OP, [x], tvm.ir.make_node("ir.DictAttrs", spec=json.dumps({REMAT: True})))


def read_hint(call: tvm.ir.Call) -> P | Remat:
    """The wish that a hint carries."""
    read: Any = json.loads(call.attrs["spec"])
    if isinstance(read, dict) and REMAT in read:
        return Remat()
    entries, options = (read, {}) if isinstance(read, list) else (read.pop("entries"), read)
    return P(*(... if e == "..." else tuple(e) if isinstance(e, list) else e for e in entries), **options)


def unused_hints(mod: tvm.IRModule, graph: Graph) -> list[str]:
    """Notes of the hints of `mod` that its graph does not have: what nothing uses is dropped, and nobody would know."""
    heard = {f.name: {node.name for node in f.nodes if node.op == HINT} for f in graph.functions.values()}
    anywhere = {name for names in heard.values() for name in names}
    notes: list[str] = []
    for variable, function in mod.functions_items():
        name = variable.name_hint
        hints = _hints(function) if isinstance(function, relax.Function) else {}
        used = _hints(relax.analysis.remove_all_unused(function)) if hints else {}
        for result, x in hints.items():
            if result not in used or result not in heard.get(name, anywhere):
                what = f"the hint on {x!r} in {name!r} is not obeyed, as nothing uses its result {result!r}"
                notes.append(f"{what}; let what reads {x!r} read the result of the hint")
    return notes


def _hints(function: relax.Function) -> dict[str, str]:
    """What hints are bound to, and what they are hints on, by name."""
    found: dict[str, str] = {}

    def see(binding: Any) -> None:
        value = binding.value
        if isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == HINT:
            found[str(binding.var.name)] = str(getattr(value.args[0], "name", "a constant"))

    tvm_ffi.structural_walk(function.body, ((relax.VarBinding,), see))
    return found


def _write(spec: P) -> str:
    entries = ["..." if e is ... else e for e in spec.entries]
    plain = P(*spec.entries) == spec
    return json.dumps(entries if plain else {"entries": entries, "others": spec.others, "gather": spec.gather})


def _infer_type(call: tvm.ir.Call, _: relax.BlockBuilder) -> Any:
    return call.args[0].ty


def _legalize(_: relax.BlockBuilder, call: tvm.ir.Call) -> Any:
    return call.args[0]


def _parsed(x: Any, spec: str) -> Any:
    """``R.spmd.hint(x, spec="...")`` as TVMScript prints it."""
    return tvm.ir.Call(_OP, [x], tvm.ir.make_node("ir.DictAttrs", spec=spec))


def _register() -> Any:
    tvm.ir.op._ffi_api.RegisterOp(HINT, "A wish for the sharding of a value.")  # pyright: ignore[reportPrivateUsage]
    op = tvm.ir.Op.get(HINT)
    op.set_num_inputs(1)
    op.add_argument("x", "Tensor", "The value.")
    op.set_attrs_type_key("ir.DictAttrs")
    for name, value in (("FInferType", tvm_ffi.convert(_infer_type)), ("FPurity", True), ("FLegalize", tvm_ffi.convert(_legalize))):
        op.set_attr(name, value)
    register_gradient(HINT, lambda _, __, gradient, ___: [gradient])
    for namespace in (_script, _parser):  # `R` of a Python module, and `R` of a parsed text
        namespace.spmd = SimpleNamespace(**{**vars(getattr(namespace, "spmd", SimpleNamespace())), "hint": _parsed})
    return op


_OP = _register()
