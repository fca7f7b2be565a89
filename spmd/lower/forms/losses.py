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
    """Predictions and weights are read where this worker has the target."""
    predictions, targets, *weights = f.args
    counted, here, at = _places(f, targets, 1)
    axis = min(1, predictions.ty.ndim - 1)
    places = f.emit(relax.op.expand_dims(at, axis))
    loss = f.emit(relax.op.squeeze(f.emit(relax.op.gather_elements(predictions, places, axis)), [axis]))
    # As TVM does it, which tells from `negative` in the sign of zeros.
    loss = f.emit(relax.op.subtract(f.scalar(0, str(loss.ty.dtype)), loss))
    if weights:
        loss = f.emit(relax.op.multiply(loss, f.emit(relax.op.take(weights[0], at, axis=0, mode="clip"))))
    loss = _terms(f, counted, here, loss)
    if f.call.attrs.reduction == "none":
        return loss
    loss = f.emit(relax.op.sum(loss)) if loss.ty.ndim else loss
    if f.call.attrs.reduction == "sum":
        return loss
    total = _weight_sum(f, counted, _weights(f, counted, here, at, weights, str(predictions.ty.dtype)), is_weighted=bool(weights))
    # Weights may add up to anything, zero and infinity too, by which only the whole may be divided.
    return f.emit(relax.op.divide(f.all_reduce(loss, "sum") if weights else loss, total))


@form("nll_loss_backward")
def nll_loss_backward(f: FormContext) -> Any:
    """``-weight * output_grad`` (over the sum of the weights, for a mean) where the class is the target; what is ignored weighs 0."""
    upstream, predictions, targets, *weights = f.args
    counted, here, at = _places(f, targets, 2)
    dtype, rank = str(predictions.ty.dtype), predictions.ty.ndim
    weight = _weights(f, counted, here, at, weights, dtype)
    if f.call.attrs.reduction == "mean":
        upstream = f.emit(relax.op.divide(upstream, _weight_sum(f, counted, weight, is_weighted=bool(weights))))
    factor = f.emit(relax.op.multiply(f.emit(relax.op.negative(weight)), upstream))
    axis = min(1, rank - 1)
    size = predictions.ty.shape.values[axis]
    classes = f.emit(relax.op.arange(0, size, 1, str(targets.ty.dtype)))
    classes = f.emit(relax.op.reshape(classes, [size, *[1] * (rank - 1 - axis)]))
    is_target = f.emit(relax.op.equal(classes, f.emit(relax.op.expand_dims(at, axis))))
    is_target = f.emit(relax.op.logical_and(is_target, f.emit(relax.op.expand_dims(here, axis))))
    return f.emit(relax.op.where(is_target, f.emit(relax.op.expand_dims(factor, axis)), f.scalar(0, dtype)))


def _places(f: FormContext, targets: Any, number: int) -> tuple[Any, Any, Any]:
    """Which targets count; of which this worker has the class, ignored or not; and where: 0 where it has not, so that it can be read."""
    emit, dtype, predictions = f.emit, str(targets.ty.dtype), f.args[number - 1]
    counted = emit(relax.op.not_equal(targets, f.scalar(int(f.call.attrs.ignore_index), dtype)))
    zero, classes = f.scalar(0, dtype), int(predictions.ty.shape.values[min(1, predictions.ty.ndim - 1)])
    at = targets
    if f.factor == "c":
        first = emit(relax.op.multiply(emit(relax.op.astype(f.index(), dtype)), f.scalar(classes, dtype)))
        at = emit(relax.op.subtract(targets, first))
    here = emit(relax.op.logical_and(emit(relax.op.greater_equal(at, zero)), emit(relax.op.less(at, f.scalar(classes, dtype)))))
    if f.factor != "c" and f.padded:
        valid = f.valid(targets.ty.ndim, f.dim_of(number))
        counted, here = (emit(relax.op.logical_and(x, valid)) for x in (counted, here))
    return counted, here, emit(relax.op.where(here, at, zero))


def _terms(f: FormContext, counted: Any, here: Any, x: Any) -> Any:
    """`x` for targets of this worker, zero for ignored ones; nothing for those of others, which leaves even the sign of a zero."""
    dtype = str(x.ty.dtype)
    x = f.emit(relax.op.where(here, x, f.nothing(dtype)))
    return f.emit(relax.op.where(counted, x, f.scalar(0, dtype)))


def _weights(f: FormContext, counted: Any, here: Any, at: Any, weights: list[Any], dtype: str) -> Any:
    """The weight of each target, 1 where there are no weights."""
    each = f.emit(relax.op.take(weights[0], at, axis=0, mode="clip")) if weights else f.scalar(1, dtype)
    return _terms(f, counted, here, each)


def _weight_sum(f: FormContext, counted: Any, each: Any, *, is_weighted: bool) -> Any:
    """The sum of the weights of all targets. Without weights, who has all targets need not ask."""
    is_local = not is_weighted and f.factor == "c"
    each = f.emit(relax.op.astype(counted, str(each.ty.dtype))) if is_local else each
    total = f.emit(relax.op.sum(each)) if each.ty.ndim else each
    return total if is_local else f.all_reduce(total, "sum")
