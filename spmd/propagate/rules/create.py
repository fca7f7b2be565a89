"""Tensors made from nothing but a shape."""

from __future__ import annotations

from ...expression import Rule
from .helpers import letters
from .registry import OpCall, rule


@rule("relax.zeros", "relax.ones", "relax.full")
def filled(op: OpCall) -> Rule:
    """The same number everywhere; `full` takes it as a rank-0 tensor."""
    return op.bind(f"-> {' '.join(letters(len(op.outputs[0])))}", zero="all" if op.name == "relax.zeros" else "", shape_args={0: 0})


@rule("relax.zeros_like", "relax.ones_like", "relax.full_like")
def filled_like(op: OpCall) -> Rule:
    """Shaped like the first input; the fill value, where there is one, has rank 0."""
    names = " ".join(letters(len(op.outputs[0])))
    return op.bind(f"{names}{', ' if len(op.inputs) > 1 else ''} -> {names}", zero="all" if op.name == "relax.zeros_like" else "")


@rule("relax.arange")
def arange(op: OpCall) -> Rule:
    """Consecutive numbers: each worker makes all of them."""
    return op.bind("-> n", whole="n")
