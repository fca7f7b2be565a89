"""Attention on a cache by heads: a worker's heads are heads of the module, the same ones in all functions."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from .indices import NoRelation
from .relations import Relations, Value

Heads = tuple[tuple[str, ...], int, int, int, int]
"""The axes that heads are split over, and how many queries and keys the module and a worker have."""


def attention(relations: Relations, call: Any, given: list[Any], shape: tuple[int, ...]) -> tuple[Value, Heads]:
    """What attention gives a worker: some heads of what it gives in the module, where it is given these heads' queries, keys and values."""
    *told, whole = call.args
    *own_told, part = given
    out, indices = call.result, relations.indices
    if told != own_told or part.pending or part.dtype != whole.dtype:
        raise NoRelation("attention on another cache or layer, or of a sum")
    if (whole.shape[0], whole.shape[2], out.shape[0], out.shape[2]) != (part.shape[0], part.shape[2], shape[0], shape[2]):
        raise NoRelation("attention on another number of tokens")
    counts = [indices.constant(n) for n in (out.shape[1], whole.shape[1], shape[1], part.shape[1])]
    queries, every, own, own_every = (n or 0 for n in counts)
    keys, own_keys = (every - queries) // 2, (own_every - own) // 2
    if (
        not (queries and keys and own and own_keys)
        or queries % keys
        or own % own_keys
        or every != queries + 2 * keys
        or own_every != own + 2 * own_keys
    ):
        raise NoRelation("attention of heads of a number that is not known")
    group, own_group = queries // keys, own // own_keys
    for order in (o for count in range(len(indices.axes) + 1) for o in permutations(indices.axes, count)):
        if indices.mesh.axis_size(*order) * own != queries:
            continue
        first = [(w * own + q, w * own + q // own_group * own_group) for w in range(queries // own) for q in range(own)]
        if any(a // group != b // group for a, b in first):
            continue  # a worker's head of keys is not that of its queries
        begin = indices.binary("Mul", indices.index(order), indices.number(own))
        if _is_part(relations, whole, part, (queries, keys, own, own_keys), begin):
            at = indices.binary("Add", begin, relations.variables(shape)[1])
            return relations.moved(out, shape, {1: ("ix", at)}), (order, queries, keys, own, own_keys)
    raise NoRelation("attention of heads that are no part of the module's")


def _is_part(relations: Relations, whole: Value, part: Value, counts: tuple[int, int, int, int], begin: int) -> bool:
    """Whether a worker's queries, keys and values are those of the module's heads from here on."""
    queries, keys, own, own_keys = counts
    indices = relations.indices

    def plus(a: int, number: int) -> int:
        return indices.binary("Add", a, indices.number(number))

    def same(count: int, first: int, other: int, group: int) -> bool:
        """Whether heads of the worker from `first` on are those of the module from `other` on; `group` says which of these."""
        shape = (part.shape[0], indices.number(count), part.shape[2])
        at = relations.variables(shape)[1]
        query = indices.binary("Add", begin, indices.binary("Mul", at, indices.number(own // count)))
        there = plus(indices.binary("FloorDiv", query, indices.number(group)), other)
        a = relations.moved(part, shape, {1: ("ix", plus(at, first))})
        return relations.same(a.body, relations.moved(whole, shape, {1: ("ix", there)}).body)

    group = queries // keys
    return same(own, 0, 0, 1) and same(own_keys, own, queries, group) and same(own_keys, own + own_keys, queries + keys, group)
