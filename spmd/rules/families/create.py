"""Tensors made from nothing but a shape."""

from __future__ import annotations

from spmd.ir.expressions import static
from spmd.rules.model import Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import letters


@rule("relax.zeros", "relax.ones", "relax.full")
def filled(op: OpCall) -> Rule:
    """The same number everywhere; `full` takes it as a rank-0 tensor."""
    return op.bind(f"-> {' '.join(letters(len(op.outputs[0])))}", zero="all" if op.name == "relax.zeros" else "", shape_args={0: 0})


@rule("relax.zeros_like", "relax.ones_like", "relax.full_like")
def filled_like(op: OpCall) -> Rule:
    """Shaped like the first input; the fill value, where there is one, has rank 0."""
    names = " ".join(letters(len(op.outputs[0])))
    return op.bind(f"{names}{', ' if len(op.inputs) > 1 else ''} -> {names}", zero="all" if op.name == "relax.zeros_like" else "")


@rule("relax.arange", "relax.hamming_window")
def sequence(op: OpCall) -> Rule:
    """A number for each place: each worker makes those of its own places, if they are known beforehand."""
    if None in op.outputs[0] or not all(isinstance(getattr(arg, "value", None), int | float) for arg in op.call.args):
        return op.bind("-> n", whole="n")
    return op.bind("-> n", forms={"n": Form("sequence")})


@rule("relax.eye", "relax.eye_like")
def eye(op: OpCall) -> Rule:
    """Ones on a diagonal: each worker knows the places that it holds."""
    text = "a b -> a b" if op.inputs else "-> a b"
    shift = op.call.args[2 if op.name == "relax.eye" else 1 :]
    if None in op.outputs[0] or any(static(arg) is None for arg in shift):
        return op.bind(text, whole="a b")
    return op.bind(text, forms=dict.fromkeys("ab", Form("eye")))
