"""Reductions over axes: a split reduced dimension leaves a partial."""

from __future__ import annotations

from spmd.rules.model import Exchange, Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import axis_of, input_is_float, is_float, is_narrow, letters, wide
from .helpers import whole as nothing_splits

_KIND = {"relax.sum": "sum", "relax.max": "max", "relax.min": "min", "relax.prod": "prod"}


def _text(op: OpCall) -> tuple[str, list[str], list[str]]:
    """The expression, the reduced factors and the others."""
    names = letters(len(op.inputs[0]))
    axes = range(len(names)) if op.attrs.axis is None else [axis_of(a, len(names)) for a in op.attrs.axis]
    keep = bool(op.attrs.keepdims)
    out = [("1" if keep else "") if i in axes else n for i, n in enumerate(names)]
    text = f"{' '.join(names)} -> {' '.join(o for o in out if o)}"
    return text, [names[a] for a in axes], [n for i, n in enumerate(names) if i not in axes]


@rule(*_KIND)
def reduction(op: OpCall) -> Rule:
    """Sum, max, min and prod reduce shard by shard; padding holds what is neutral.

    Of floats, the largest and the smallest hang on where the last NaN is, which workers tell each other first.
    """
    total = op.name == "relax.sum"
    text, reduced, rest = _text(op)
    compared = _KIND[op.name] in ("max", "min") and input_is_float(op) and not is_narrow(op)
    if compared and all(op.bind(text).sizes[f] is not None for f in reduced):
        form = Form("extreme", (Exchange("all_reduce", " ".join(rest), "int64"),), partial=_KIND[op.name])
        return op.bind(text, reduce=None, forms=dict.fromkeys(reduced, form))
    return op.bind(text, reduce=_KIND[op.name], neutral=True, zero="all" if total else "", linear=((0,),) if total else ())


@rule("relax.mean", "relax.variance", "relax.std")
def statistic(op: OpCall) -> Rule:
    """Mean, variance and std of a split dimension reduce one number a row over the workers; the mean is linear."""
    text, reduced, rest = _text(op)
    name = op.name.removeprefix("relax.")
    if not is_float(op) and (name == "std" or str(op.call.ty.dtype) != "int64"):
        return nothing_splits(op)  # TVM's kernels give int64, and float32 for std, whatever the type says
    linear = ((0,),) if name == "mean" and is_float(op) else ()
    zero = "all" if linear else ""
    whole = op.bind(text, whole=" ".join(reduced), reduce=None, zero=zero, linear=linear)
    # The number of elements must be known; a mean of integers rounds.
    if not is_float(op) or any(whole.sizes[f] is None for f in reduced):
        return whole
    one = Exchange("all_reduce", " ".join(rest), wide(op))
    form = Form(name, (one,) * {"mean": 0, "variance": 1, "std": 2}[name], partial=None if name == "std" else "sum")
    return op.bind(text, reduce=None, forms=dict.fromkeys(reduced, form), zero=zero, linear=linear)


@rule("relax.median")
def median(op: OpCall) -> Rule:
    """The middle of the sorted elements, which all have to be in one place; with an axis, where it stood too."""
    text, reduced, _ = _text(op)
    out = text.partition("->")[2]
    return op.bind(text + f",{out}" * (len(op.outputs) - 1), whole=" ".join(reduced), reduce=None)


@rule("relax.collapse_sum_to", "relax.collapse_sum_like")
def collapse_sum(op: OpCall) -> Rule:
    """The sum over what broadcasting had added: leading dimensions, and those of size 1 in the target."""
    data, target = op.inputs[0], op.outputs[0]
    names = letters(len(data))
    kept = names[len(data) - len(target) :]
    sizes = data[len(data) - len(target) :]
    out = " ".join("1" if small == 1 and large != 1 else n for n, small, large in zip(kept, target, sizes, strict=True))
    like = op.name == "relax.collapse_sum_like"
    text = f"{' '.join(names)}{', ' + out if like else ''} -> {out}"
    # The target of collapse_sum_like gives its shape alone.
    return op.bind(text, neutral=True, linear=((0,),), zero="" if like else "all", shape_args={} if like else {1: 0})
