"""Reductions over axes: a split reduced dimension leaves a partial."""

from __future__ import annotations

from ...expression import Rule
from .helpers import axis_of, is_float, letters
from .registry import OpCall, rule

_KIND = {"relax.sum": "sum", "relax.max": "max", "relax.min": "min", "relax.prod": "prod"}


@rule(*_KIND, "relax.mean", "relax.variance", "relax.std")
def reduction(op: OpCall) -> Rule:
    """Sum, max, min and prod reduce shard by shard; mean is linear; variance and std need whole data."""
    names = letters(len(op.inputs[0]))
    axes = range(len(names)) if op.attrs.axis is None else [axis_of(a, len(names)) for a in op.attrs.axis]
    keep = bool(op.attrs.keepdims)
    out = [("1" if keep else "") if i in axes else n for i, n in enumerate(names)]
    text = f"{' '.join(names)} -> {' '.join(o for o in out if o)}"
    kind = _KIND.get(op.name)
    linear = ((0,),) if op.name == "relax.sum" or (op.name == "relax.mean" and is_float(op)) else ()
    return op.bind(
        text, reduce=kind, whole=frozenset() if kind else frozenset(names[a] for a in axes), zero="all" if linear else "", linear=linear
    )
