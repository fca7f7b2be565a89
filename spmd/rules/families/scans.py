"""Cumulative sums and products."""

from __future__ import annotations

from spmd.rules.model import Exchange, Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, letters


@rule("relax.cumsum", "relax.cumprod")
def scan(op: OpCall) -> Rule:
    """Over one axis, or over all elements as one row where it is None; split along it, only the total of each shard is exchanged.

    A split of any dimension of the flattened tensor cuts it into shards of runs, each run with a total of its own.
    """
    names = letters(len(op.inputs[0]))
    axis = None if op.attrs.axis is None else axis_of(op.attrs.axis, len(names))
    ins, dtype = " ".join(names), str(op.call.ty.dtype)
    forms: dict[str, Form] = {}
    for i, name in enumerate(names):
        if axis in (None, i):
            totals = names[:i] if axis is None else [n for n in names if n != name]
            forms[name] = Form("scan", (Exchange("all_gather", " ".join(totals), dtype),), ordered=True)
    is_sum = op.name == "relax.cumsum"
    # The exclusive product of zeros starts with a one.
    keeps_zero = is_sum or not op.attrs.exclusive
    linear = ((0,),) if is_sum and dtype == str(op.call.args[0].ty.dtype) else ()
    return op.bind(f"{ins} -> {f'({ins})' if axis is None else ins}", forms=forms, zero="all" if keeps_zero else "", linear=linear)
