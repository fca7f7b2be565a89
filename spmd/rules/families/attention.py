"""Attention: by batch, heads and output channels as it is, by queries and keys with what they have to know of each other."""

from __future__ import annotations

from typing import Any

from spmd.rules.model import Exchange, Form, Rule
from spmd.rules.registry import OpCall, rule

from .helpers import is_narrow, wide


def _heads(op: OpCall) -> tuple[str, str, dict[str, Any]]:
    """How the heads of the queries and of the keys are written: ``(g r)`` and ``g`` where several queries share a key."""
    query, key = op.inputs[0][2], op.inputs[1][2]
    if query is None or key is None or query == key:
        return "h", "h", {}
    return "(g r)", "g", {"g": key, "r": query // key}


@rule("relax.nn.attention", "relax.nn.attention_bias")
def attention(op: OpCall) -> Rule:
    """The rule from ``b s h d``, ``b t h d`` and ``b t h e`` to ``b s h e``: workers take whole groups of query heads and their key head.

    Queries split freely; under a causal mask each worker masks by its own positions. Split keys leave a partial sum, weighted by the
    largest score and the total of all. The channels ``d`` stay whole: all scores would have to be summed.
    """
    h, k, sizes = _heads(op)
    known = None not in (op.inputs[0][1], op.inputs[1][1])
    text = f"b s {h} d, b t {k} d, b t {k} e"
    if len(op.inputs) > 3:
        one = [size == 1 for size in op.inputs[3]]
        text += f", {'1' if one[0] else 'b'} {'1' if one[1] else h} {'1' if one[2] else 's'} t"
    text += f" -> b s {h} e"
    causal, windowed = op.attrs.causal_mask is not None, op.attrs.window_size is not None
    if windowed or (causal and (sizes or not known)):  # masks go by absolute positions
        return op.bind(text, sizes=sizes, whole="d r s t")
    if sizes or is_narrow(op):
        return op.bind(text, sizes=sizes, whole=f"d t{' r' * bool(sizes)}{' s' * causal}")
    exchange = Exchange("all_reduce", "b h s", wide(op))
    forms = {"t": Form("attention_keys", (exchange, exchange), partial="sum")}
    if causal:
        forms["s"] = Form("attention_queries")
    return op.bind(text, whole="d", forms=forms)


@rule("relax.nn.attention_var_len")
def attention_var_len(op: OpCall) -> Rule:
    """Sequences of many lengths, packed one after another: any part of them may belong to any sequence; heads split."""
    h, k, sizes = _heads(op)
    lengths = [f"n{i}" for i in range(len(op.inputs) - 3)]
    text = f"b s {h} d, b t {k} d, b t {k} e{''.join(f', {n}' for n in lengths)} -> b s {h} e"
    return op.bind(text, sizes=sizes, whole=f"b s t d{' r' * bool(sizes)} {' '.join(lengths)}")
