"""Operators of PyTorch that are kept whole, as TVM has them so: smaller graphs, and placements that are seen at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from tvm import relax

from . import torch_types
from .torch_nodes import arguments


def kept_whole(program: Any) -> Iterator[Any]:
    """The operators that are not to be decomposed; attention only where all of it means the same in TVM."""
    torch: Any = import_module("torch")
    aten: Any = torch.ops.aten
    yield from (aten.linear.default, aten.matmul.default, aten.silu.default)
    attention = aten.scaled_dot_product_attention.default
    if all(_is_plain(node) for node in program.graph.nodes if node.target is attention):
        yield attention
    if all(_has_weight(node) for node in program.graph.nodes if node.target is aten.rms_norm.default):
        yield aten.rms_norm.default


def _is_plain(node: Any) -> bool:
    """Whether attention has four dimensions, no dropout, no groups of heads, and adds its mask, if any, in as many dimensions."""
    given = _attention(node)
    mask = given["attn_mask"]
    rank = all(arg.meta["val"].ndim == 4 for arg in node.args[:3])
    added = mask is None or (mask.meta["val"].dtype.is_floating_point and mask.meta["val"].ndim == 4)
    return rank and added and given["dropout_p"] == 0.0 and not given["enable_gqa"]


def _attention(node: Any) -> dict[str, Any]:
    """What attention is given by name."""
    taken = {"query": None, "key": None, "value": None}
    return arguments(node, {**taken, "attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False})


def _has_weight(node: Any) -> bool:
    return len(node.args) > 2 and node.args[2] is not None and len(node.args[1]) == 1


def _linear(node: Any, importer: Any) -> Any:
    """Convert aten.linear in the dtype of its operands, where TVM's own conversion makes all float32."""
    x, weight, *bias = importer.retrieve_args(node)
    emit = importer.block_builder.emit
    made = emit(relax.op.matmul(x, emit(relax.op.permute_dims(weight))))
    return emit(relax.op.add(made, bias[0])) if bias and bias[0] is not None else made


def _matmul(node: Any, importer: Any) -> Any:
    return importer.block_builder.emit(relax.op.matmul(*importer.retrieve_args(node)))


def _scaled_dot_product_attention(node: Any, importer: Any) -> Any:
    """Convert aten.scaled_dot_product_attention with the scale that was asked for, which TVM's own conversion leaves out."""
    given, emit = _attention(node), importer.block_builder.emit
    heads_last = [emit(relax.op.permute_dims(importer.env[arg], [0, 2, 1, 3])) for arg in node.args[:3]]
    mask = None if given["attn_mask"] is None else importer.env[given["attn_mask"]]
    causal = "TopLeft" if given["is_causal"] else None
    made = emit(relax.op.nn.attention(*heads_last, bias=mask, scale=given["scale"], causal_mask=causal))
    return emit(relax.op.permute_dims(made, [0, 2, 1, 3]))


def _rms_norm(node: Any, importer: Any) -> Any:
    torch: Any = import_module("torch")
    eps = node.args[3] if len(node.args) > 3 and node.args[3] is not None else torch.finfo(node.args[0].meta["val"].dtype).eps
    x, weight = importer.env[node.args[0]], importer.env[node.args[2]]
    return importer.block_builder.emit(relax.op.nn.rms_norm(x, weight, axes=[-1], epsilon=eps))


CONVERTED: dict[str, Callable[[Any, Any], Any]] = {
    "linear.default": _linear,
    "matmul.default": _matmul,
    "scaled_dot_product_attention.default": _scaled_dot_product_attention,
    "rms_norm.default": _rms_norm,
    **dict.fromkeys(("div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode"), torch_types.div),
}
"""Name of an operator -> its conversion, given the node and TVM's importer."""
