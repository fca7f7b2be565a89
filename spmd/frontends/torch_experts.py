"""Products with the weights of many experts, as transformers exports them: rows sorted by expert, and where each expert's rows end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax
from tvm.relax import op

from .torch_nodes import arguments


def _grouped_product(node: Any, importer: Any) -> Any:
    """Rows ``(rows, in)`` by weights ``(experts, in, out)``; `ends` has the number of the row at which each expert's end.

    Every expert takes all rows, and a row keeps what its own expert made; behind the last end it is 0. So shapes are known before the
    program runs, and experts can be split over workers, whose results are summed.
    """
    rows, weights, ends = importer.retrieve_args(node)[:3]
    emit = importer.block_builder.emit
    experts, count, kind = weights.ty.shape[0], rows.ty.shape[0], str(ends.ty.dtype)
    numbers = emit(op.arange(0, count, 1, kind))
    ended = emit(op.greater_equal(emit(op.expand_dims(numbers, 0)), emit(op.expand_dims(ends, 1))))
    expert_of_row = emit(op.sum(emit(op.astype(ended, kind)), axis=[0]))
    experts_own = emit(op.equal(emit(op.expand_dims(expert_of_row, 0)), emit(op.expand_dims(emit(op.arange(0, experts, 1, kind)), 1))))
    made = emit(op.matmul(emit(op.expand_dims(rows, 0)), weights))
    kept = emit(op.where(emit(op.expand_dims(experts_own, 2)), made, relax.const(0, str(made.ty.dtype))))
    return emit(op.sum(kept, axis=[0]))


def _histogram(node: Any, importer: Any) -> Any:
    """``histc(x, bins, min, max)``: how many elements fall into each of so many equal parts from `min` to `max`, both within."""
    given = arguments(node, {"self": None, "bins": 100, "min": 0, "max": 0})
    x, emit = importer.env[given["self"]], importer.block_builder.emit
    bins, low, high = int(given["bins"]), float(given["min"]), float(given["max"])
    if low >= high:
        raise ValueError("the range of histc is that of its values, which is not known before the program runs")
    kind = str(x.ty.dtype)
    flat = emit(op.reshape(x, [-1]))
    least, most = relax.const(low, kind), relax.const(high, kind)
    share = emit(op.divide(emit(op.subtract(flat, least)), relax.const(high - low, kind)))
    part = emit(op.minimum(emit(op.floor(emit(op.multiply(share, relax.const(bins, kind))))), relax.const(bins - 1, kind)))
    within = emit(op.logical_and(emit(op.greater_equal(flat, least)), emit(op.less_equal(flat, most))))
    part = emit(op.where(within, part, relax.const(-1, kind)))
    numbers = emit(op.astype(emit(op.arange(0, bins, 1, "int64")), kind))
    each = emit(op.equal(emit(op.expand_dims(part, 0)), emit(op.expand_dims(numbers, 1))))
    return emit(op.sum(emit(op.astype(each, kind)), axis=[1]))


CONVERTED: dict[str, Callable[[Any, Any], Any]] = {"grouped_mm_fallback.default": _grouped_product, "histc.default": _histogram}
"""Name of an operator -> its conversion, given the node and TVM's importer."""
