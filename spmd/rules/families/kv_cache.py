"""The paged KV cache: an opaque state that is sharded by its heads, one pseudo-dimension ``h``.

These are the heads that have keys and values of their own in it; where all share one latent vector (MLA), the query heads.
"""

from __future__ import annotations

from spmd.ir.expressions import static
from spmd.rules.expression import bind
from spmd.rules.model import Dim, Rule, Shape, Size, Spec
from spmd.rules.registry import OpCall, rule

_HEADS: Spec = ((("h",),),)
_ATTENTION = "vm.builtin.attention_kv_cache_"
CREATE_SCALARS = {
    # name: (argument of the query heads, argument of the KV heads, cutter of its kernels)
    "vm.builtin.paged_attention_kv_cache_create": (3, 4, "paged_kv_cache"),
    "mlc.create_paged_kv_cache_generic": (5, 6, None),
}
_LATENT = 1
"""Attention to one latent vector for all heads, by its number in TVM's runtime."""
_WITHOUT_HEADS = (
    *(f"{_ATTENTION}{name}" for name in ("get_query_positions", "get_sequence_length", "get_total_sequence_length", "empty")),
    *(f"{_ATTENTION}{name}" for name in ("get_num_available_pages", "enable_sliding_window_for_seq", "append_mla_kv")),
    f"{_ATTENTION}commit_accepted_token_tree_nodes",
    *(f"vm.builtin.kv_state_{name}" for name in ("clear", "add_sequence", "remove_sequence", "fork_sequence", "popn")),
    *(f"vm.builtin.kv_state_{name}" for name in ("begin_forward", "end_forward")),
)
"""What says and does the same whichever heads a worker has: it is about sequences, pages and positions."""


@rule(f"{_ATTENTION}attention_with_fused_qkv")
def fused_qkv(op: OpCall) -> Rule | None:
    """The rule qkv [tokens, heads, d] -> [tokens, query heads, d]: a worker needs whole groups of query heads and their KV head."""
    total, query = op.inputs[-1][1], op.outputs[0][1]
    if total is None or query is None or (total - query) % 2 or query % ((total - query) // 2):
        return None
    heads = (total - query) // 2
    inputs: list[Shape] = [(heads,), *op.inputs[1:]]
    return bind(
        "h, t [(h r) h h] d -> t (h r) d", inputs, op.outputs, {"h": heads, "r": query // heads}, whole="t r d", zero="all", reduce=None
    )


@rule(f"{_ATTENTION}self_attention", f"{_ATTENTION}attention_with_shared_kv")
def self_attention(op: OpCall) -> Rule | None:
    """Queries, keys and values of the same tokens, each a tensor; the logarithms of the sums of exponentials may be a second result."""
    query, heads = op.inputs[1][1], op.inputs[3][1]
    if query is None or not heads or query % heads:
        return None
    results = ["t (h r) e", "t (h r)"][: len(op.outputs)]
    sizes: dict[str, Size] = {"h": heads, "r": query // heads}
    inputs: list[Shape] = [(heads,), *op.inputs[1:]]
    return bind(f"h, t (h r) d, t h d, t h e -> {', '.join(results)}", inputs, op.outputs, sizes, whole="t r d e", reduce=None)


@rule(f"{_ATTENTION}cross_attention")
def cross_attention(op: OpCall) -> Rule | None:
    """Queries alone, to what the cache holds: to latent vectors that all heads share."""
    heads = op.inputs[1][1]
    if heads is None:
        return None
    return bind("h, t h d -> t h e, t h", [(heads,), op.inputs[1]], op.outputs, {"h": heads}, whole="t d e", reduce=None)


@rule(f"{_ATTENTION}merge_attn_output_inplace")
def merge(op: OpCall) -> Rule | None:
    """Two results of attention, each with its logarithms, into one, head by head."""
    heads = op.inputs[1][1]
    if heads is None:
        return None
    text = "h, t h d, t h, t h d, t h -> t h d, t h"
    return bind(text, [(heads,), *op.inputs[1:]], op.outputs, {"h": heads}, whole="t d", reduce=None)


@rule(*_WITHOUT_HEADS)
def without_heads(op: OpCall) -> Rule:
    """Every worker asks or changes its own part of the cache, and all get the same."""
    sizes: dict[str, Size] = {"h": None}

    def specs(shapes: tuple[Shape, ...], states: tuple[bool, ...]) -> tuple[Spec, ...]:
        return tuple(_HEADS if is_state else _whole(shape, sizes) for shape, is_state in zip(shapes, states, strict=True))

    inputs, outputs = specs(op.inputs, op.input_states), specs(op.outputs, op.output_states)
    return Rule(inputs, outputs, sizes, whole=frozenset(sizes) - {"h"}, unread=frozenset("h"), reduce=None).touching()


@rule(*CREATE_SCALARS)
def create(op: OpCall) -> Rule | None:
    """The call that makes the cache is given the local head counts, and kernels made for them."""
    query_at, heads_at, kernels = CREATE_SCALARS[op.name]
    query, heads = static(op.call.args[query_at]), static(op.call.args[heads_at])
    if query is None or heads is None or query % heads:
        return None
    latent = _is_latent(op)
    if latent is None or (latent and heads != 1):
        return None
    sizes: dict[str, Size] = {"h": query, "v": heads} if latent else {"h": heads, "r": query // heads}
    inputs = tuple(_whole(shape, sizes) for shape in op.inputs)
    whole = frozenset(sizes) - {"h"}
    counts = {query_at: "h", heads_at: "v"} if latent else {query_at: "h r", heads_at: "h"}
    return Rule(inputs, (_HEADS,), sizes, whole=whole, scalar_args=counts, kernels=kernels, work="view", reduce=None)


def _is_latent(op: OpCall) -> bool | None:
    """Whether all layers of the cache that a call makes hold latent vectors; None where some do."""
    if op.name == "mlc.create_paged_kv_cache_generic":
        given = op.call.args[1]
        found = {getattr(kind, "value", "") == "mla" for kind in getattr(given, "fields", [given])}
    else:
        values = getattr(op.call.args[7], "values", None)
        found = {static(kind) == _LATENT for kind in values} if values is not None else {False}
    return found == {True} if len(found) == 1 else None


def _whole(shape: Shape, sizes: dict[str, Size]) -> Spec:
    dims: list[Dim] = []
    for size in shape:
        name = f"w{len(sizes)}"
        sizes[name] = size
        dims.append(((name,),))
    return tuple(dims)
