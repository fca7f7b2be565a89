"""Operators whose conversion in TVM's importer gives other numbers than PyTorch, or fails: what it leaves out, and indices from the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op

from .torch_nodes import arguments, dtype_of, name_of

_FROM_0 = ("argmax", "argmin", "argsort", "ge", "gt", "le", "lt", "eq", "ne", "logical_and", "logical_or")
"""Operators that make no index from the end."""
_KEEP = (
    "view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "expand",
    "slice",
    "select",
    "permute",
    "clone",
    "_to_copy",
    "add",
    "mul",
    "cumsum",
)
"""Operators that make one of nothing else."""
_ORDERED = ("sort", "topk", "max", "min")
"""Operators that give values, and then where these stood."""
_NARROW = 4
"""Bytes of a whole number that does not come out below 0 by overflow."""


def _select(node: Any, importer: Any) -> Any:
    """``x[:, -1]``: the index may be one from the end, where TVM's `take` reads what is not there."""
    x, (dim, index) = importer.env[node.args[0]], node.args[1:3]
    at = relax.const(index, "int64") if index >= 0 else _number(index + x.ty.shape[dim], "int64", importer)
    return importer.block_builder.emit(op.take(x, at, axis=dim))


def _number(size: Any, kind: str, importer: Any) -> Any:
    """A size as a tensor without dimensions, known or not."""
    if isinstance(size, int) or hasattr(size, "value"):
        return relax.const(int(size), kind)
    emit = importer.block_builder.emit
    return emit(op.squeeze(emit(op.arange(size, size + 1, 1, kind)), [0]))


def _index(node: Any, importer: Any) -> Any:
    """``x[:, i, j]``: tensors that take elements together, from the end where they are negative."""
    emit, x, given = importer.block_builder.emit, importer.env[node.args[0]], node.args[1]
    dims = [dim for dim, index in enumerate(given) if index is not None]
    if any("bool" in str(given[dim].meta["val"].dtype) for dim in dims):
        raise ValueError("a mask takes as many elements as it has true, which is not known before the program runs")
    if x.ty.shape is None:
        raise ValueError("it takes what has sizes that TVM does not know; of a model of transformers, pass attention_mask, too")
    indices = [_from_start(given[dim], importer, x.ty.shape[dim]) for dim in dims]
    if len(dims) == 1:
        return emit(op.take(x, indices[0], axis=dims[0]))
    rest = [dim for dim in range(x.ty.ndim) if dim not in dims]
    ahead = x if dims == list(range(len(dims))) else emit(op.permute_dims(x, [*dims, *rest]))
    made = emit(op.index_tensor(ahead, indices))
    together, first = made.ty.ndim - len(rest), dims[0]
    if dims != list(range(first, first + len(dims))) or not first:
        return made
    return emit(op.permute_dims(made, [*range(together, together + first), *range(together), *range(together + first, made.ty.ndim)]))


def _from_start(arg: Any, importer: Any, size: Any) -> Any:
    """An index whose negative elements, if it may have some, count from the end."""
    emit, index = importer.block_builder.emit, importer.env[arg]
    kind = str(index.ty.dtype)
    if "uint" in kind or _is_from_start(arg):
        return index
    sizes = _number(size, kind, importer)
    return emit(op.where(emit(op.less(index, relax.const(0, kind))), emit(op.add(index, sizes)), index))


def _is_from_start(arg: Any) -> bool:
    """Whether no element of an index is negative, by the operators that make it."""
    if not hasattr(arg, "target"):  # a number, or sizes
        return not isinstance(arg, (int, float)) or arg >= 0
    name = name_of(arg)
    if name == "getitem" and name_of(arg.args[0]) in _ORDERED:
        return arg.args[1] == 1 or _is_from_start(arg.args[0].args[0])
    if name in _FROM_0:
        return True
    if arg.meta["val"].dtype.itemsize < _NARROW:
        return False
    if name == "arange":
        start_and_step = (arg.args[0], *arg.args[2:]) if len(arg.args) > 1 else ()
        return all(isinstance(number, int) and number >= 0 for number in start_and_step)
    return name in _KEEP and all(map(_is_from_start, arg.args[:2] if name in ("add", "mul") else arg.args[:1]))


def _elu(node: Any, importer: Any) -> Any:
    """``scale * (max(x, 0) + alpha * (exp(input_scale * min(x, 0)) - 1))``."""
    given = arguments(node, {"self": None, "alpha": 1.0, "scale": 1.0, "input_scale": 1.0})
    x, emit = importer.env[given["self"]], importer.block_builder.emit
    alpha, scale, inside, zero, one = (
        relax.const(float(value), str(x.ty.dtype)) for value in (given["alpha"], given["scale"], given["input_scale"], 0, 1)
    )
    below = emit(op.exp(emit(op.multiply(emit(op.minimum(x, zero)), inside))))
    made = emit(op.add(emit(op.maximum(x, zero)), emit(op.multiply(emit(op.subtract(below, one)), alpha))))
    return made if given["scale"] == 1 else emit(op.multiply(made, scale))


def _cumsum(node: Any, importer: Any) -> Any:
    """In the dtype of its result, which of booleans is another."""
    x, kind = importer.env[node.args[0]], dtype_of(node)
    emit = importer.block_builder.emit
    return emit(op.cumsum(x if str(x.ty.dtype) == kind else emit(op.astype(x, kind)), node.args[1]))


def _full(node: Any, importer: Any) -> Any:
    """Of infinities too, at which TVM's own legalization fails."""
    shape, value = importer.retrieve_args(node)[:2]
    kind = dtype_of(node)
    is_number = isinstance(value, (int, float))
    made = relax.const(value, kind) if is_number else importer._convert_scalar_fill_value(value, kind)
    special = is_number and not math.isfinite(value)
    sizes = shape.ty.shape if isinstance(shape, relax.Expr) else relax.ShapeExpr(shape)
    return importer.block_builder.emit(op.broadcast_to(made, sizes) if special else op.full(sizes, made, kind))


def _nearest(node: Any, importer: Any) -> Any:
    """Output pixel i is input pixel floor(i * in / out)."""
    x, value = importer.env[node.args[0]], node.meta["val"]
    scales = node.args[2] if len(node.args) > 2 and node.args[2] is not None else ()
    sizes, before = value.shape[2:], node.args[0].meta["val"].shape[2:]
    if any(size != scale * old for size, scale, old in zip(sizes, scales, before, strict=False)):
        raise ValueError(f"a scale of {list(scales)} makes no whole number of pixels")
    asked = {"layout": "NCHW", "method": "nearest_neighbor", "coordinate_transformation_mode": "asymmetric", "rounding_method": "floor"}
    return importer.block_builder.emit(op.image.resize2d(x, relax.ShapeExpr([int(size) for size in sizes]), **asked))


def _group_norm(node: Any, importer: Any) -> Any:
    """Without weights too."""
    x, groups, eps = importer.env[node.args[0]], int(node.args[6]), float(node.args[7])
    channels, kind = int(x.ty.shape[1]), str(x.ty.dtype)
    gamma, beta = (
        relax.const(np.full(channels, 1 - i, kind)) if arg is None else importer.env[arg] for i, arg in enumerate(node.args[1:3])
    )
    axes = list(range(2, x.ty.ndim))
    made = op.nn.group_norm(x, gamma, beta, num_groups=groups, channel_axis=1, axes=axes, epsilon=eps)
    return (importer.block_builder.emit(made),)


def _top(node: Any, importer: Any) -> Any:
    """In order, where any order was asked for too."""
    given = arguments(node, {"self": None, "k": None, "dim": -1, "largest": True, "sorted": True})
    made = op.topk(importer.env[given["self"]], k=given["k"], axis=given["dim"], largest=given["largest"], ret_type="both", dtype="int64")
    return importer.block_builder.emit(made)


def _reduced(reduce: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """A reduction over one dimension, several, or all."""

    def convert(node: Any, importer: Any) -> Any:
        given = arguments(node, {"self": None, "dim": None, "keepdim": False})
        dims = given["dim"]
        axes = None if dims is None or dims == [] else list(dims) if isinstance(dims, Sequence) else [dims]
        return importer.block_builder.emit(reduce(importer.env[given["self"]], axis=axes, keepdims=bool(given["keepdim"])))

    return convert


def _scatter_add(node: Any, importer: Any) -> Any:
    x, dim, index, source = importer.retrieve_args(node)
    return importer.block_builder.emit(op.scatter_elements(x, index, source, axis=dim, reduction="add"))


CONVERTED: dict[str, Callable[[Any, Any], Any]] = {
    "select.int": _select,
    "index.Tensor": _index,
    "elu.default": _elu,
    "cumsum.default": _cumsum,
    "full.default": _full,
    "full_like.default": _full,
    "upsample_nearest2d.vec": _nearest,
    "native_group_norm.default": _group_norm,
    "topk.default": _top,
    "amax.default": _reduced(op.max),
    "amin.default": _reduced(op.min),
    "prod.dim_int": _reduced(op.prod),
    "scatter_add.default": _scatter_add,
}
"""Name of an operator -> its conversion, given the node and TVM's importer."""
