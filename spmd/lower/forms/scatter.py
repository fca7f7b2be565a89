"""Writing at indices into a split dimension, and writing updates that are split themselves."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from .context import FormContext, form
from .lookup import component

_NEUTRAL = {"sum": -0.0, "prod": 1.0, "min": float("inf"), "max": float("-inf")}


@form("scatter")
def scatter(f: FormContext) -> Any:
    """What falls into no place of this worker is written to a row after its shard, which is then left out."""
    at = 1 if f.node.op == "relax.grad.take_backward" else 0
    dim, args = f.dim_of(at), list(f.args)
    data = args[at]
    shape = [1 if d == dim else s for d, s in enumerate(data.ty.shape.values)]
    spare = f.emit(relax.op.zeros(shape, str(data.ty.dtype)))
    args[at] = f.emit(relax.op.concat([data, spare], axis=dim))
    if f.node.op == "relax.scatter_nd":
        _, args[1] = component(f, args[1], dim, dummy=f.size)
    elif f.node.op == "relax.index_put":
        args[1 + dim] = _here(f, _positive(f, args[1 + dim]))
    elif f.node.op == "relax.scatter_elements":
        args[1] = _here(f, _positive(f, args[1]))
    else:
        args[2] = _here(f, args[2])
    return f.emit(relax.op.strided_slice(_call(f, args), [dim], [0], [f.size]))


@form("scatter_terms")
def scatter_terms(f: FormContext) -> Any:
    """Each worker writes its own updates: over the data on the first worker, over what is neutral on the others.

    Padding is written to the first place, where it changes nothing.
    """
    kind = f.rule.forms[f.factor].partial or "sum"
    args = list(f.args)
    back = f.node.op == "relax.grad.take_backward"
    values = 0 if back else len(args) - 1
    for i, arg in enumerate(args):
        if any(f.factor in piece for dim in f.rule.inputs[i] for piece in dim):
            args[i] = f.masked(arg, f.dim_of(i), _NEUTRAL[kind] if i == values else 0)
    if kind in ("sum", "prod") and not back:
        first = f.emit(relax.op.equal(f.index(), f.scalar(0, "int64")))
        args[0] = f.emit(relax.op.where(first, args[0], f.scalar(_NEUTRAL[kind], str(args[0].ty.dtype))))
    return _call(f, args)


def _call(f: FormContext, args: list[Any]) -> Any:
    if f.node.op == "relax.index_put":
        args = [args[0], relax.Tuple(args[1:-1]), args[-1]]
    return f.emit(tvm.ir.Call(f.call.op, args, f.call.attrs))


def _here(f: FormContext, indices: Any) -> Any:
    """Places in the shard of this worker, the row after it for all others."""
    inside, here = f.in_shard(indices)
    return f.emit(relax.op.where(inside, here, f.scalar(f.size, str(here.ty.dtype))))


def _positive(f: FormContext, indices: Any) -> Any:
    """Negative indices count from the end of the whole dimension."""
    indices = f.signed(indices)
    dtype = str(indices.ty.dtype)
    shifted = f.emit(relax.op.add(indices, f.scalar(f.split.size, dtype)))
    return f.emit(relax.op.where(f.emit(relax.op.less(indices, f.scalar(0, dtype))), shifted, indices))
