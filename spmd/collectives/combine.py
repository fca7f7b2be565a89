"""The collectives as NumPy on everybody's tensors at once: what each worker of a group gets from what each one has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spmd.placement.layout import Array, reduce

Arrays = Sequence[Array]


def all_reduce(xs: Arrays, outs: Arrays, kind: str) -> None:
    """Everybody's sum, computed once."""
    reduce(kind, xs, outs[0])
    for out in outs[1:]:
        out[...] = outs[0]


def all_gather(xs: Arrays, outs: Arrays, dim: int) -> None:
    """Everybody's `xs`, one after the other along `dim`."""
    for out in outs:
        for x, part in zip(xs, _parts(out, dim, len(xs)), strict=True):
            part[...] = x


def reduce_scatter(xs: Arrays, outs: Arrays, kind: str, dim: int) -> None:
    """The i-th part of the sum to the i-th."""
    columns = zip(*(_parts(x, dim, len(xs)) for x in xs), strict=True)
    for parts, out in zip(columns, outs, strict=True):
        reduce(kind, parts, out)


def all_to_all(xs: Arrays, outs: Arrays, split_dim: int, concat_dim: int) -> None:
    """The i-th part of everybody's to the i-th."""
    sources = [_parts(x, split_dim, len(xs)) for x in xs]
    for i, out in enumerate(outs):
        for parts, target in zip(sources, _parts(out, concat_dim, len(xs)), strict=True):
            target[...] = parts[i]


def permute(xs: Arrays, outs: Arrays, pairs: Sequence[int]) -> None:
    """From the source of each pair to its target, zeros elsewhere."""
    source = dict(zip(pairs[1::2], pairs[0::2], strict=True))
    for i, out in enumerate(outs):
        out[...] = xs[source[i]] if i in source else np.zeros((), out.dtype)


def broadcast(xs: Arrays, outs: Arrays, root: int) -> None:
    """The root's, to everybody."""
    for out in outs:
        out[...] = xs[root]


COMBINE: dict[str, Callable[..., None]] = {
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
    "permute": permute,
    "broadcast": broadcast,
}


def _parts(array: Array, dim: int, count: int) -> list[Array]:
    size, rest = divmod(array.shape[dim], count)
    if rest:
        raise ValueError(f"dimension {dim} of {array.shape} cannot be split over {count} workers")
    before = (slice(None),) * dim
    return [array[(*before, slice(i * size, (i + 1) * size))] for i in range(count)]
