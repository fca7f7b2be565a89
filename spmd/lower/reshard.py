"""The Relax code of a conversion: collectives, the moves around them, and what stands in padding."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from tvm import relax

from spmd import collectives
from spmd.placement.dtypes import ends, numpy_dtype
from spmd.placement.layout import pieces
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.transfers.conversion import Step, moved_split

from .reorder import Emit, folded, local_dim, local_dims, reshaped, shard_order, whole_order

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """A collective that is wanted: the op of the dialect, the tensor, and the op's own attributes."""

    op: str
    x: Any
    attrs: tuple[tuple[str, Any], ...]
    workers: int
    value: str
    """The name for traces."""


Sending = Generator[Send, Any, T]
"""Code that comes to a collective, waits for its result, and goes on."""


def emit_step(emit: Emit, x: Any, step: Step, dims: Sequence[Any], mesh: Mesh, value: str) -> Sending[Any]:
    """`x`, held in ``step.source``, moved into ``step.target``. `dims` is the global shape, `value` the name for traces."""
    workers, axis = mesh.axis_size(step.axis), step.axis

    def send(x: Any, **attrs: Any) -> Send:
        return Send(step.kind, x, (("axis", axis), *attrs.items()), workers, value)

    if step.kind == "all_reduce":
        return (yield send(x, kind=step.reduce))
    if step.kind == "permute":
        return (yield send(x, pairs=tuple(_exchange(step, mesh))))
    here = local_dims(dims, step.source, mesh)
    if step.kind == "all_gather":
        gathered = yield send(x, dim=step.dim)
        return whole_order(emit, gathered, step.dim, here, moved_split(step, step.dim, mesh), mesh, dims[step.dim])
    into = step.to_dim if step.kind == "all_to_all" else step.dim
    split = moved_split(step, into, mesh)
    x = shard_order(emit, x, into, here, split, mesh)
    size = local_dim(here[into], split, mesh)
    here[into] = size * workers if split.is_padded(mesh) or split.is_known else here[into]
    if step.kind == "slice":
        return _own_part(emit, x, into, here, size, axis, workers)
    if step.kind == "reduce_scatter":
        return (yield send(x, kind=step.reduce, dim=into))
    x = yield send(x, split_dim=into, concat_dim=step.dim)
    here[into] = size
    return whole_order(emit, x, step.dim, here, moved_split(step, step.dim, mesh), mesh, dims[step.dim])


def emit_together(emit: Emit, conversions: Sequence[Sending[T]]) -> list[T]:
    """Run conversions side by side. Where they come to the same collective they share one call, a bundle."""
    results: dict[int, T] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(conversions)))
    while answers:
        wanted: dict[Any, list[tuple[int, Send]]] = {}
        for i, answer in answers.items():
            try:
                sent = conversions[i].send(answer)
            except StopIteration as end:
                results[i] = end.value
            else:
                wanted.setdefault((sent.op, sent.attrs), []).append((i, sent))
        answers = {}
        for alike in wanted.values():
            answers.update(zip([i for i, _ in alike], _emit_bundle(emit, [sent for _, sent in alike]), strict=True))
    return [results[i] for i in range(len(conversions))]


def _emit_bundle(emit: Emit, sends: Sequence[Send]) -> list[Any]:
    """The results of collectives that differ in what they move alone."""
    first = sends[0]
    xs = first.x if len(sends) == 1 else [sent.x for sent in sends]
    value = collectives.SEPARATOR.join(sent.value for sent in sends)
    made = emit(getattr(collectives, first.op)(xs, **dict(first.attrs), workers=first.workers, value=value))
    return [made] if len(sends) == 1 else [emit(relax.TupleGetItem(made, i)) for i in range(len(sends))]


def _exchange(step: Step, mesh: Mesh) -> list[tuple[int, int]]:
    """Who sends its whole shard to whom: every worker one that `step.target` wants there, itself where it can."""
    (group, *_) = mesh.groups(step.axis)

    def shards(sharding: Sharding) -> list[tuple[int, ...]]:
        splits = [d for d in sharding.dims if d is not None]
        return [tuple(mesh.index(rank, d.axes) for d in splits) for rank in group]

    held, wanted = shards(step.source), shards(step.target)
    pairs = {place: place for place in range(len(group)) if held[place] == wanted[place]}
    free = [place for place in range(len(group)) if place not in pairs]
    for target in range(len(group)):
        if target not in pairs.values():
            source = next(place for place in free if held[place] == wanted[target])
            free.remove(source)
            pairs[source] = target
    return sorted(pairs.items())


def brings_zeros(step: Step, mesh: Mesh) -> bool:
    """Whether whatever padding there is after the step was made by it, and is zero."""
    into = step.to_dim if step.kind == "all_to_all" else step.dim if step.kind in ("slice", "reduce_scatter") else -1
    padded = [i for i, split in enumerate(step.target.dims) if split is not None and split.is_padded(mesh)]
    return all(i == into and step.source.dims[i] is None for i in padded)


def mask_padding(emit: Emit, x: Any, dims: Sequence[Any], sharding: Sharding, mesh: Mesh, kind: str = "sum") -> Any:
    """`x` with the neutral element of the reduction `kind` wherever a shard holds padding. `dims` is the global shape, `x` the shard."""
    dtype, here = str(x.ty.dtype), local_dims(dims, sharding, mesh)
    for dim, split in enumerate(sharding.dims):
        if split is None or not split.is_padded(mesh):
            continue
        size = here[dim] if split.uneven else split.local_size(mesh)
        seen, at = folded(here, dim, split, size) if split.repeated else (here, dim)
        mine = _uneven_valid(emit, dims[dim], split, mesh) if split.uneven else _valid(emit, split, mesh)
        shaped = reshaped(emit, mine, [size if d == at else 1 for d in range(len(seen))])
        x = emit(relax.op.reshape(x, seen)) if split.repeated else x
        x = emit(relax.op.where(shaped, x, relax.const(np.array(_neutral(kind, dtype), numpy_dtype(dtype)), dtype)))
        x = emit(relax.op.reshape(x, here)) if split.repeated else x
    return x


def _valid(emit: Emit, split: Split, mesh: Mesh) -> Any:
    """Which elements of its part of a dimension, or of a pattern, this worker has: the others are padding."""
    workers = mesh.axis_size(split.axis)
    valid = np.zeros((workers, split.local_size(mesh)), "bool")
    for worker in range(workers):
        for _, start, count, _ in pieces(split, mesh, worker):
            valid[worker, start : start + count] = True
    return emit(relax.op.take(relax.const(valid), emit(collectives.axis_index(split.axis, workers)), axis=0))


def _uneven_valid(emit: Emit, size: Any, split: Split, mesh: Mesh) -> Any:
    """The same where the size is known when the program runs: the worker's part of all "yes"."""
    everywhere = shard_order(emit, emit(relax.op.ones([size], "bool")), 0, [size], split, mesh)
    return _own_part(emit, everywhere, 0, [size], local_dim(size, split, mesh), split.axis, mesh.axis_size(split.axis))


def _neutral(kind: str, dtype: str) -> Any:
    """What changes no result of the reduction `kind`; infinity where there is one, as a kernel that starts from there gives it."""
    if kind in ("sum", "prod"):
        return int(kind == "prod")
    return ends(dtype)[kind == "min"]


def _own_part(emit: Emit, x: Any, dim: int, here: list[Any], size: int, axis: str, workers: int) -> Any:
    """The part of dimension `dim`, in shard order, that belongs to this worker."""
    parts = reshaped(emit, x, [*here[:dim], workers, size, *here[dim + 1 :]])
    return emit(relax.op.take(parts, emit(collectives.axis_index(axis, workers)), axis=dim))
