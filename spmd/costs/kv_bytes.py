"""The memory of a paged KV cache, as the call that makes it says."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx

from spmd.program.graph import Node

from .cost import Cost

_MLA, _LINEAR = 1, 2
"""Kinds of attention by their numbers in TVM's runtime: one compressed vector for all heads, a state for each sequence."""


def create_bytes(node: Node, cost: Cost) -> int | None:
    """Bytes of the pages of the cache that `node` makes with all heads; None where it makes none, or they depend on a size not given.

    TVM's runtime allocates whole pages for all tokens and one more, and two for each sequence where windows slide.
    """
    call = node.binding.value
    args: list[Any] = call.args[:] if isinstance(call, tvm.ir.Call) else []
    if node.op == "vm.builtin.paged_attention_kv_cache_create":
        sizes, (kv_heads, qk_dim, v_dim) = args[1], args[4:7]
        kinds = [_size(kind, cost) for kind in args[7].values] if isinstance(args[7], relax.ShapeExpr) else [None]
        dtype = next((v.dtype for v in node.inputs if v.is_tensor and not v.shape), "")
    elif node.op == "mlc.create_paged_kv_cache_generic":
        sizes, (kv_heads, qk_dim, v_dim) = args[2], args[6:9]
        kinds = [_MLA if getattr(args[1], "value", "") == "mla" else 0] * (_size(args[4], cost) or 0)
        dtype = str(getattr(args[-1], "value", ""))
    else:
        return None
    if not isinstance(sizes, relax.ShapeExpr) or len(sizes.values) < 5 or not dtype or not kinds:
        return None
    sequences, tokens, _, page, slides = (_size(s, cost) for s in sizes.values[:5])
    heads, dim, out = _size(kv_heads, cost), _size(qk_dim, cost), _size(v_dim, cost)
    if tokens is None or not page or heads is None or dim is None or out is None or slides is None or None in kinds:
        return None
    if sequences is None and (slides or _LINEAR in kinds):
        return None
    pages = -(-tokens // page) + 1 + (2 * (sequences or 0) if slides else 0)
    of_kind = {_MLA: pages * page * dim, _LINEAR: (sequences or 0) * heads * dim * out}
    elements = sum(of_kind.get(kind or 0, 2 * pages * page * heads * dim) for kind in kinds)
    return elements * tvm.DataType(dtype).bits // 8


def _size(expr: Any, cost: Cost) -> int | None:
    """The planning size of a number, unless it is one that nobody gave."""
    if isinstance(expr, int | float):
        return int(expr)
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    if isinstance(expr, tvm.ir.Var):
        return cost.sizes.get(expr.name)
    return cost.size(expr) if all(v.name in cost.sizes for v in tirx.analysis.undefined_vars(expr)) else None
