"""The memory of a paged KV cache, as the call that makes it says, and what attention reads of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tvm
from tvm import relax, tirx

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.program.graph import Node

from .planning_sizes import PlanningSizes

_OF_RUNTIME, _OF_MLC = "vm.builtin.paged_attention_kv_cache_create", "mlc.create_paged_kv_cache_generic"
CREATES_CACHE = (_OF_RUNTIME, _OF_MLC)
"""The calls that make a cache."""
READS_CACHE = tuple(
    f"vm.builtin.attention_kv_cache_{name}" for name in ("attention_with_fused_qkv", "attention_with_shared_kv", "cross_attention")
)
"""The calls that attend to what a cache holds."""
_MLA, _LINEAR = 1, 2
"""Kinds of attention by their numbers in TVM's runtime: one compressed vector for all heads, a state for each sequence."""


class CacheBytes(NamedTuple):
    """Bytes of a cache, or of a layer of it, with all heads."""

    of_heads: int
    """Keys, values and states of heads."""
    shared: int
    """Latent vectors, which every worker has whole, whichever heads it has."""

    def local(self, sharding: Sharding, mesh: Mesh) -> int:
        """What a worker has of them, where the heads are sharded so."""
        held = self.of_heads
        for split in sharding.dims:
            held = held if split is None else -(-held * split.local_size(mesh) // split.size)
        return held + self.shared


class _Asked(NamedTuple):
    """The arguments of a call that makes a cache."""

    sizes: Any
    """How many sequences, tokens, tokens at a time and tokens of a page, and whether windows slide."""
    heads: list[Any]
    """How many key-value heads, the size of a query or key, and that of a value."""
    kinds: Sequence[int | None]
    """The kind of attention of each layer; None where nobody knows."""
    dtype: str


def create_bytes(node: Node, known: PlanningSizes) -> CacheBytes | None:
    """Bytes of the pages of the cache that `node` makes; None where it makes none, or they depend on a size not given."""
    layers = _layers(node, known)
    return None if layers is None else CacheBytes(*map(sum, zip(*layers, strict=True)))


def read_bytes(node: Node, known: PlanningSizes) -> CacheBytes:
    """Bytes that attention reads in one layer of the cache that `node` makes; none where nobody knows its size.

    A cache is half full on average, from its first token to its last.
    """
    layers = _layers(node, known)
    return CacheBytes(*(sum(each) // (2 * len(layers)) for each in zip(*layers, strict=True))) if layers else CacheBytes(0, 0)


def _layers(node: Node, known: PlanningSizes) -> list[CacheBytes] | None:
    """Bytes of the pages of each layer.

    TVM's runtime allocates whole pages for all tokens and one more, and two for each sequence where windows slide.
    """
    asked = _asked(node, known)
    if asked is None or not isinstance(asked.sizes, relax.ShapeExpr) or len(asked.sizes.values) < 5 or not asked.dtype or not asked.kinds:
        return None
    sequences, tokens, _, page, slides = (_size(s, known) for s in asked.sizes.values[:5])
    heads, dim, out = (_size(s, known) for s in asked.heads)
    kinds = asked.kinds
    if tokens is None or not page or heads is None or dim is None or out is None or slides is None or None in kinds:
        return None
    if sequences is None and (slides or _LINEAR in kinds):
        return None
    pages = -(-tokens // page) + 1 + (2 * (sequences or 0) if slides else 0)
    item = tvm.DataType(asked.dtype).bits // 8
    of_kind = {_MLA: (0, pages * page * dim), _LINEAR: ((sequences or 0) * heads * dim * out, 0)}
    found = [of_kind.get(kind or 0, (2 * pages * page * heads * dim, 0)) for kind in kinds]
    return [CacheBytes(of_heads * item, shared * item) for of_heads, shared in found]


def _asked(node: Node, known: PlanningSizes) -> _Asked | None:
    """What a call that makes a cache asks for, None of any other."""
    call = node.binding.value
    args: list[Any] = call.args[:] if isinstance(call, tvm.ir.Call) else []
    if node.op == _OF_RUNTIME:
        kinds = [_size(kind, known) for kind in args[7].values] if isinstance(args[7], relax.ShapeExpr) else [None]
        return _Asked(args[1], args[4:7], kinds, next((v.dtype for v in node.inputs if v.is_tensor and not v.shape), ""))
    if node.op == _OF_MLC:
        kinds = [_MLA if getattr(args[1], "value", "") == "mla" else 0] * (_size(args[4], known) or 0)
        return _Asked(args[2], args[6:9], kinds, str(getattr(args[-1], "value", "")))
    return None


def _size(expr: Any, known: PlanningSizes) -> int | None:
    """The planning size of a number, unless it is one that nobody gave."""
    if isinstance(expr, int | float):
        return int(expr)
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    if isinstance(expr, tvm.ir.Var):
        return known.sizes.get(expr.name)
    return known.size(expr) if all(v.name in known.sizes for v in tirx.analysis.undefined_vars(expr)) else None
