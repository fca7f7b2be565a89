"""Moving elements along a split dimension, and masks that hang on where an element stands."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from spmd.rules.element_routes import Moves

from .context import FormContext, form


@form("move")
def move(f: FormContext) -> Any:
    """Each worker sends what others need of its shard, and takes its own part from what it has and what it got."""
    moves = f.rule.forms[f.factor].exchanges
    assert isinstance(moves, Moves)
    dim = next(i for i, pieces in enumerate(f.rule.inputs[0]) if (moves.source,) in pieces)
    x = _sliced_elsewhere(f, f.args[0], dim) if f.node.op == "relax.strided_slice" else f.args[0]
    route, width = moves.route(f.splits, f.mesh), int(x.ty.shape.values[dim])
    parts, skipped = [x], 0
    if route.rounds and (route.taken >= width).all():  # nothing of its own stays with any worker
        parts, skipped = [], width
    for r in route.rounds:
        parts.append(f.permute(_taken(f, x, r.sent, dim), r.pairs))
    joined = f.emit(relax.op.concat(parts, axis=dim)) if len(parts) > 1 else parts[0]
    moved = _taken(f, joined, np.maximum(route.taken - skipped, 0), dim)
    return _padded_elsewhere(f, moved, dim) if f.node.op == "relax.nn.pad" else moved


def _sliced_elsewhere(f: FormContext, x: Any, dim: int) -> Any:
    """The slice over all dimensions but one; it comes first, as it leaves less to send."""
    axes, *places = [list(arg.fields) for arg in f.call.args[1:]]
    keep = [i for i, axis in enumerate(axes) if int(axis.value) % x.ty.ndim != dim]
    if not keep:
        return x
    parts = [[part[i] for i in keep] for part in (axes, *places)]
    return f.emit(relax.op.strided_slice(x, *parts, assume_inbound=f.call.attrs.assume_inbound))


def _padded_elsewhere(f: FormContext, x: Any, dim: int) -> Any:
    """The pad of all dimensions but one."""
    attrs = f.call.attrs
    widths = [0 if i // 2 == dim else int(w) for i, w in enumerate(attrs.pad_width)]
    return f.emit(relax.op.nn.pad(x, widths, attrs.pad_mode, attrs.pad_value)) if any(widths) else x


def _taken(f: FormContext, x: Any, table: np.ndarray[Any, Any], dim: int) -> Any:
    """The elements of `x` along `dim` that the worker's row of `table` names."""
    if table.shape[1] == int(x.ty.shape.values[dim]) and (table == np.arange(table.shape[1])).all():
        return x
    return f.emit(relax.op.take(x, f.own(table), axis=dim, mode="clip"))


@form("triangle")
def triangle(f: FormContext) -> Any:
    """Triu and tril of a matrix whose rows or columns are split: what is kept is known from the places."""
    (x,) = f.args
    shift, rank = int(f.call.args[1].value), x.ty.ndim
    rows, columns = (places(f, 0, rank - 2 + i, 2, i) for i in (0, 1))
    offset = f.emit(relax.op.subtract(columns, rows))
    keep = relax.op.greater_equal if f.node.op == "relax.triu" else relax.op.less_equal
    mask = f.emit(keep(offset, f.scalar(shift, "int64")))
    return f.emit(relax.op.where(mask, x, f.scalar(0, str(x.ty.dtype))))


def places(f: FormContext, tensor: int, dim: int, rank: int, at: int, *, output: bool = False) -> Any:
    """The global places along dimension `dim` of a tensor, as a tensor of `rank` dimensions that is long in dimension `at`."""
    if f.dim_of(tensor, output=output) == dim:
        return f.along(f.positions(), rank, at)
    size = (f.node.outputs if output else f.node.inputs)[tensor].shape[dim] or 0
    shape = [-1 if d == at else 1 for d in range(rank)]
    return relax.const(np.arange(size, dtype="int64").reshape(shape), "int64")
