"""Losses: split along the classes, each worker answers for the targets among its own."""

from __future__ import annotations

from spmd.rules.model import Exchange, Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import is_float, letters, whole
from .linearity import linear_product


@rule("relax.nn.cross_entropy_with_logits")
def cross_entropy(op: OpCall) -> Rule:
    """``-sum(predictions * labels)`` over the size of the batch, the first of several dimensions: a partial sum."""
    names = letters(len(op.inputs[0]))
    text = f"{' '.join(names)}, {' '.join(names)} ->"
    linear = linear_product(op, (0,), (1,)) if is_float(op) else ()
    if len(names) == 1:
        return op.bind(text, zero="any", linear=linear)
    if op.inputs[0][0] is None or not is_float(op):  # the batch must be known, or integers would be divided shard by shard
        return op.bind(text, zero="any", linear=linear, whole=names[0] if is_float(op) else " ".join(names))
    return op.bind(text, zero="any", linear=linear, forms={names[0]: Form("cross_entropy", partial="sum")})


@rule("relax.nn.nll_loss")
def nll_loss(op: OpCall) -> Rule:
    """``-predictions[n, target] * weights[target]``, summed, or divided by the sum of the weights, or as it is."""
    if not is_float(op):  # a mean of integers would be rounded shard by shard
        return whole(op)
    prediction, target, weights = _specs(op)
    kept = op.attrs.reduction == "none"
    text = f"{prediction}, {target}{weights} -> {target if kept else ''}"
    # The sum of given weights may be zero or infinite: a mean is divided by it once it is whole.
    is_whole = op.attrs.reduction == "mean" and weights != ""
    first = (Exchange("all_reduce", ""),) if is_whole else ()
    classes = Form("nll_loss", first + _weight_sum(op, is_class=True), partial=None if is_whole else "sum", ordered=True)
    others = Form("nll_loss", first + _weight_sum(op, is_class=False), partial=None if is_whole or kept else "sum")
    return op.bind(text, reduce=None, forms={"c": classes, **dict.fromkeys(target.split(), others)})


@rule("relax.grad.nll_loss_backward")
def nll_loss_backward(op: OpCall) -> Rule:
    """The gradient of the predictions: zero but where the target is."""
    if not is_float(op):
        return whole(op)
    prediction, target, weights = _specs(op)
    upstream = target if op.attrs.reduction == "none" else ""
    text = f"{upstream}, {prediction}, {target}{weights} -> {prediction}"
    classes = Form("nll_loss_backward", _weight_sum(op, is_class=True), ordered=True)
    others = Form("nll_loss_backward", _weight_sum(op, is_class=False))
    return op.bind(text, reduce=None, forms={"c": classes, **dict.fromkeys(target.split(), others)})


def _specs(op: OpCall) -> tuple[str, str, str]:
    """The factors of the predictions, ``n c d1..dk`` (or ``c``), of the targets, and of the weights where there are any."""
    at = 1 if op.name == "relax.grad.nll_loss_backward" else 0
    rank = len(op.inputs[at])
    names = ["n", "c", *(f"d{i}" for i in range(rank - 2))] if rank > 1 else ["c"]
    return " ".join(names), " ".join(n for n in names if n != "c"), ", c" if len(op.inputs) > at + 2 else ""


def _weight_sum(op: OpCall, *, is_class: bool) -> tuple[Exchange, ...]:
    """A mean is divided by the sum of the weights of all targets, which no worker may know alone."""
    weighted = _specs(op)[2] != ""
    return (Exchange("all_reduce", ""),) if op.attrs.reduction == "mean" and (weighted or not is_class) else ()
