"""What workers get from each other: the dialect ``R.spmd.*`` and TVM's own ``R.ccl.*``, on the values of all workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import field
from .expressions import is_float
from .field import Array
from .values import Tensor, Wrong

_WHOLE: dict[str, Callable[[Array], Array]] = {
    "sum": lambda x: x.sum(0, dtype=x.dtype),
    "prod": lambda x: x.prod(0, dtype=x.dtype),
    "max": lambda x: x.max(0),
    "min": lambda x: x.min(0),
}


def reduced(parts: Sequence[Tensor], kind: str) -> Tensor:
    """The parts as one by a reduction."""
    stacked, dtype = np.stack([p.data for p in parts]), parts[0].dtype
    return Tensor(field.REDUCTIONS[kind](stacked, (0,)) if is_float(dtype) else _WHOLE[kind](stacked), dtype)


def _cut(x: Tensor, dim: int, count: int) -> list[Tensor]:
    if x.data.shape[dim] % count:
        raise Wrong(f"dimension {dim} has size {x.data.shape[dim]}, which {count} workers do not divide")
    return [Tensor(part, x.dtype) for part in np.split(x.data, count, dim)]


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return Tensor(np.concatenate([p.data for p in parts], dim), parts[0].dtype)


def _all_reduce(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    return [reduced(xs, str(attrs["kind"]))] * len(xs)


def _all_gather(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    return [_joined(xs, int(attrs["dim"]))] * len(xs)


def _reduce_scatter(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    return _cut(reduced(xs, str(attrs["kind"])), int(attrs["dim"]), len(xs))


def _all_to_all(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    sent = [_cut(x, int(attrs["split_dim"]), len(xs)) for x in xs]
    return [_joined([parts[i] for parts in sent], int(attrs["concat_dim"])) for i in range(len(xs))]


def _permute(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    got = [Tensor(np.zeros_like(x.data), x.dtype) for x in xs]
    for source, target in attrs["pairs"]:
        got[int(target)] = xs[int(source)]
    return got


def _broadcast(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    return [xs[int(attrs["root"])]] * len(xs)


DIALECT: dict[str, Callable[[Sequence[Tensor], Any], list[Tensor]]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "permute": _permute,
    "broadcast": _broadcast,
}


def _ccl_all_reduce(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    return [reduced(xs, str(attrs.op_type))] * len(xs)


def _ccl_all_gather(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    return [_joined(xs, 0)] * len(xs)


def _ccl_broadcast(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    return [xs[0]] * len(xs)


def _ccl_scatter(xs: Sequence[Tensor], attrs: Any) -> list[Tensor]:
    return _cut(xs[0], int(attrs.axis), len(xs))


CCL: dict[str, Callable[[Sequence[Tensor], Any], list[Tensor]]] = {
    "allreduce": _ccl_all_reduce,
    "allgather": _ccl_all_gather,
    "broadcast_from_worker0": _ccl_broadcast,
    "scatter_from_worker0": _ccl_scatter,
}
"""Over all workers; of several groups of workers, nothing is known here."""
