"""Losses over a split dimension. A target in padding may be any number, and counts as ignored."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .context import FormContext, form


@form("cross_entropy")
def cross_entropy(f: FormContext) -> Any:
    """A partial sum of ``-predictions * labels``, over the size of the whole batch."""
    predictions, labels = (f.masked(x, 0, 0) for x in f.args)
    total = f.emit(relax.op.sum(f.emit(relax.op.multiply(predictions, labels))))
    return f.emit(relax.op.divide(total, f.scalar(-f.split.size, str(total.ty.dtype))))


@form("nll_loss")
def nll_loss(f: FormContext) -> Any:
    """Predictions and weights are read where this worker has the target; what it has not is zero."""
    predictions, targets, *weights = f.args
    counted, here, at = _places(f, targets, 1)
    axis = min(1, predictions.ty.ndim - 1)
    places = f.emit(relax.op.expand_dims(at, axis))
    picked = f.emit(relax.op.squeeze(f.emit(relax.op.gather_elements(predictions, places, axis)), [axis]))
    if weights:
        picked = f.emit(relax.op.multiply(picked, f.emit(relax.op.take(weights[0], at, axis=0, mode="clip"))))
    loss = f.emit(relax.op.negative(_or_zero(f, here, picked)))
    reduction, dtype = f.call.attrs.reduction, str(predictions.ty.dtype)
    if reduction == "none":
        return loss
    loss = f.emit(relax.op.sum(loss)) if loss.ty.ndim else loss
    return loss if reduction == "sum" else f.emit(relax.op.divide(loss, _weight_sum(f, counted, here, at, weights, dtype)))


@form("nll_loss_backward")
def nll_loss_backward(f: FormContext) -> Any:
    """``-weight * output_grad`` (over the sum of the weights, for a mean) where the class is the target."""
    upstream, predictions, targets, *weights = f.args
    counted, here, at = _places(f, targets, 2)
    dtype, rank = str(predictions.ty.dtype), predictions.ty.ndim
    if f.call.attrs.reduction == "mean":
        upstream = f.emit(relax.op.divide(upstream, _weight_sum(f, counted, here, at, weights, dtype)))
    factor = f.emit(relax.op.negative(upstream))
    if weights:
        factor = f.emit(relax.op.multiply(factor, f.emit(relax.op.take(weights[0], at, axis=0, mode="clip"))))
    factor = _or_zero(f, here, f.emit(relax.op.broadcast_to(factor, targets.ty.shape)))
    axis = min(1, rank - 1)
    size = predictions.ty.shape.values[axis]
    classes = f.emit(relax.op.arange(0, size, 1, str(targets.ty.dtype)))
    classes = f.emit(relax.op.reshape(classes, [size, *[1] * (rank - 1 - axis)]))
    is_target = f.emit(relax.op.equal(classes, f.emit(relax.op.expand_dims(at, axis))))
    return f.emit(relax.op.where(is_target, f.emit(relax.op.expand_dims(factor, axis)), f.scalar(0, dtype)))


def _places(f: FormContext, targets: Any, number: int) -> tuple[Any, Any, Any]:
    """Which targets count, which of them this worker has the class of, and where; 0 where it has not, so that it can be read."""
    emit, dtype, rank = f.emit, str(targets.ty.dtype), targets.ty.ndim
    counted = emit(relax.op.not_equal(targets, f.scalar(int(f.call.attrs.ignore_index), dtype)))
    zero = f.scalar(0, dtype)
    if f.factor != "c":
        if f.padded:
            counted = emit(relax.op.logical_and(counted, f.valid(rank, f.dim_of(number))))
        return counted, counted, emit(relax.op.where(counted, targets, zero))
    size = f.scalar(f.size, dtype)
    at = emit(relax.op.subtract(targets, emit(relax.op.multiply(emit(relax.op.astype(f.index(), dtype)), size))))
    inside = emit(relax.op.logical_and(emit(relax.op.greater_equal(at, zero)), emit(relax.op.less(at, size))))
    here = emit(relax.op.logical_and(counted, inside))
    return counted, here, emit(relax.op.where(here, at, zero))


def _weight_sum(f: FormContext, counted: Any, here: Any, at: Any, weights: list[Any], dtype: str) -> Any:
    """The sum of the weights of all targets, 1 each where there are none."""
    if weights:
        each = _or_zero(f, here, f.emit(relax.op.take(weights[0], at, axis=0, mode="clip")))
    else:
        each = f.emit(relax.op.astype(counted, dtype))
    total = f.emit(relax.op.sum(each)) if each.ty.ndim else each
    # Without weights, who has all targets need not ask.
    return f.all_reduce(total, "sum") if weights or f.factor != "c" else total


def _or_zero(f: FormContext, keep: Any, x: Any) -> Any:
    return f.emit(relax.op.where(keep, x, f.scalar(0, str(x.ty.dtype))))
