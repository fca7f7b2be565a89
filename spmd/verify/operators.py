"""Operators for which TVM makes no loops, on arrays of integers and numbers of the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import field
from .expressions import is_float
from .field import Array
from .undecided import Undecided
from .values import Tensor


def _keys(x: Tensor) -> Array:
    """By what elements are ordered."""
    return field.signed(x.data) if is_float(x.dtype) else x.data.astype("int64")


def _order(x: Tensor, axis: int, descending: bool) -> Array:
    """Where the elements in their order stand; of equal ones the first one first."""
    keys = _keys(x)
    return np.argsort(~keys if descending else keys, axis=axis, kind="stable")


def _scan(x: Tensor, attrs: Any, kind: str) -> Tensor:
    dtype = str(attrs.dtype) if attrs.dtype else x.dtype
    if is_float(dtype):
        data = x.data if is_float(x.dtype) else field.of_integers(x.data)
        step: Callable[[Array, Array], Array] = field.add if kind == "sum" else field.multiply
    else:
        if is_float(x.dtype):
            raise Undecided(f"a scan of {x.dtype} as {dtype}")
        data, step = x.data.astype(dtype), np.add if kind == "sum" else np.multiply
    flat = attrs.axis is None
    rows = np.moveaxis(data.reshape(-1) if flat else data, 0 if flat else int(attrs.axis), 0)
    state, found = np.full(rows.shape[1:], int(kind == "prod"), rows.dtype), np.empty_like(rows)
    for i, row in enumerate(rows):
        after = step(state, row)
        found[i] = state if attrs.exclusive else after
        state = after
    return Tensor(np.moveaxis(found, 0, 0 if flat else int(attrs.axis)), dtype)


def _sort(x: Tensor, attrs: Any) -> Tensor:
    return Tensor(np.take_along_axis(x.data, _order(x, int(attrs.axis), bool(attrs.descending)), int(attrs.axis)), x.dtype)


def _argsort(x: Tensor, attrs: Any) -> Tensor:
    dtype = str(attrs.dtype)
    return Tensor(_order(x, int(attrs.axis), bool(attrs.descending)).astype(dtype), dtype)


def _topk(x: Tensor, attrs: Any) -> Any:
    axis, k = int(attrs.axis), int(attrs.k)
    order = _order(x, axis, bool(attrs.largest))
    order = np.take(order, range(min(k, order.shape[axis]) if k > 0 else order.shape[axis]), axis)
    values = Tensor(np.take_along_axis(x.data, order, axis), x.dtype)
    indices = Tensor(order.astype(str(attrs.dtype)), str(attrs.dtype))
    return {"both": (values, indices), "values": values, "indices": indices}[str(attrs.ret_type)]


ALONE: dict[str, Callable[[Tensor, Any], Any]] = {
    "relax.cumsum": lambda x, attrs: _scan(x, attrs, "sum"),
    "relax.cumprod": lambda x, attrs: _scan(x, attrs, "prod"),
    "relax.sort": _sort,
    "relax.argsort": _argsort,
    "relax.topk": _topk,
}
SAME = {
    *("relax.to_vdevice", "relax.hint_on_device", "relax.builtin.stop_lift_params", "relax.memory.ensure_zero_offset"),
    "relax.spmd.hint",
}
"""What gives what it is given."""
