"""The paged KV cache: an opaque state that is sharded by KV heads, one pseudo-dimension ``h``."""

from __future__ import annotations

from ...expression import Dim, Rule, Shape, Size, Spec, bind
from .helpers import static
from .registry import OpCall, rule

_HEADS: Spec = ((("h",),),)
CREATE_SCALARS = {
    # name: (argument of the query heads, argument of the KV heads, cutter of its kernels)
    "vm.builtin.paged_attention_kv_cache_create": (3, 4, "paged_kv_cache"),
    "mlc.create_paged_kv_cache_generic": (5, 6, None),
}


@rule("vm.builtin.attention_kv_cache_attention_with_fused_qkv")
def fused_qkv(op: OpCall) -> Rule | None:
    """From qkv [tokens, heads, d] -> [tokens, query heads, d]: a worker needs whole groups of query heads and their KV head."""
    total, query = op.inputs[-1][1], op.outputs[0][1]
    if total is None or query is None or (total - query) % 2 or query % ((total - query) // 2):
        return None
    heads = (total - query) // 2
    inputs: list[Shape] = [(heads,), *op.inputs[1:]]
    return bind(
        "h, t [(h r) h h] d -> t (h r) d", inputs, op.outputs, {"h": heads, "r": query // heads}, whole="t r d", zero="all", reduce=None
    )


@rule(*CREATE_SCALARS)
def create(op: OpCall) -> Rule | None:
    """The call that makes the cache is given the local head counts, and kernels made for them."""
    query_at, heads_at, kernels = CREATE_SCALARS[op.name]
    query, heads = static(op.call.args[query_at]), static(op.call.args[heads_at])
    if query is None or heads is None or query % heads:
        return None
    sizes: dict[str, Size] = {"h": heads, "r": query // heads}
    inputs = tuple(_whole(shape, sizes) for shape in op.inputs)
    whole = frozenset(sizes) - {"h"}
    return Rule(
        inputs, (_HEADS,), sizes, whole=whole, scalar_args={query_at: "h r", heads_at: "h"}, kernels=kernels, work="view", reduce=None
    )


def _whole(shape: Shape, sizes: dict[str, Size]) -> Spec:
    dims: list[Dim] = []
    for size in shape:
        name = f"w{len(sizes)}"
        sizes[name] = size
        dims.append(((name,),))
    return tuple(dims)
