"""The Relax code of a conversion: collectives, and the moves around them that put a dimension in the order of its shards."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import tvm
from tvm import relax

from .. import collectives
from ..conversion import Step, moved_split
from ..mesh import Mesh
from ..sharding import Segment, Sharding, Split, runs

T = TypeVar("T")
Emit = Callable[[Any], Any]
"""Binds an expression to a new variable and returns it."""


def local_dims(dims: Sequence[Any], sharding: Sharding, mesh: Mesh) -> list[Any]:
    """The local shape as TVM expressions."""
    return [d if split is None else local_dim(d, split, mesh) for d, split in zip(dims, sharding.dims, strict=True)]


def local_dim(dim: Any, split: Split, mesh: Mesh) -> Any:
    """The local size of one dimension, of which `dim` is the size before this split."""
    if split.is_known:
        return split.local_size(mesh)
    if split.is_padded(mesh):
        return _simple(dim // split.size * split.local_size(mesh))
    return _simple(dim // mesh.axis_size(*split.axes))


def _simple(size: Any) -> Any:
    """A size as a number or as the shortest expression that TVM finds."""
    if isinstance(size, int):
        return size
    found = tvm.sym.Analyzer().simplify(size)
    return int(found.value) if isinstance(found, tvm.tirx.IntImm) else found


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
        return _whole_order(emit, gathered, step.dim, here, moved_split(step, step.dim, mesh), mesh)
    into = step.to_dim if step.kind == "all_to_all" else step.dim
    split = moved_split(step, into, mesh)
    x = _shard_order(emit, x, into, here, split, mesh)
    size = local_dim(here[into], split, mesh)
    here[into] = size * workers if split.is_padded(mesh) or split.is_known else here[into]
    if step.kind == "slice":
        return _own_part(emit, x, into, here, size, axis, workers)
    if step.kind == "reduce_scatter":
        return (yield send(x, kind=step.reduce, dim=into))
    x = yield send(x, split_dim=into, concat_dim=step.dim)
    here[into] = size
    return _whole_order(emit, x, step.dim, here, moved_split(step, step.dim, mesh), mesh)


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
    import numpy as np

    from ..layout import pieces

    dtype, here = str(x.ty.dtype), local_dims(dims, sharding, mesh)
    for dim, split in enumerate(sharding.dims):
        if split is None or not split.is_padded(mesh):
            continue
        workers, size = mesh.axis_size(split.axis), split.local_size(mesh)
        valid = np.zeros((workers, size), "bool")
        for worker in range(workers):
            for _, start, count, _ in pieces(split, mesh, worker):
                valid[worker, start : start + count] = True
        mine = emit(relax.op.take(relax.const(valid), emit(collectives.axis_index(split.axis, workers)), axis=0))
        seen, at = (here, dim) if split.is_known else _folded(here, dim, split, size)
        shaped = _reshaped(emit, mine, [size if d == at else 1 for d in range(len(seen))])
        x = x if split.is_known else emit(relax.op.reshape(x, seen))
        x = emit(relax.op.where(shaped, x, relax.const(np.array(_neutral(kind, dtype), _numpy(dtype)), dtype)))
        x = x if split.is_known else emit(relax.op.reshape(x, here))
    return x


def _neutral(kind: str, dtype: str) -> Any:
    """What changes no result of the reduction `kind`."""
    import ml_dtypes
    import numpy as np

    if kind in ("sum", "prod"):
        return int(kind == "prod")
    if dtype == "bool":
        return kind == "min"
    if dtype.startswith(("int", "uint")):
        return ml_dtypes.iinfo(_numpy(dtype)).max if kind == "min" else ml_dtypes.iinfo(_numpy(dtype)).min
    # Infinity where the dtype has it: numbers that are all infinite, or a kernel that starts from there, give infinity.
    limits = ml_dtypes.finfo(_numpy(dtype))
    infinite = np.isinf(np.array(np.inf, _numpy(dtype)).astype("float32"))
    ends = (np.inf, -np.inf) if infinite else (limits.max, limits.min)
    return ends[0] if kind == "min" else ends[1]


def _numpy(dtype: str) -> Any:
    import ml_dtypes
    import numpy as np

    return getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else np.dtype(dtype)


def _reshaped(emit: Emit, x: Any, shape: Sequence[Any]) -> Any:
    """`x` under another shape; TVM takes a size of 0 to mean that of `x` in the same place, so what has no elements is made anew."""
    if any(isinstance(n, (int, tvm.tirx.IntImm)) and int(n) == 0 for n in shape):
        return emit(relax.op.zeros(list(shape), str(x.ty.dtype)))
    return emit(relax.op.reshape(x, list(shape)))


def _own_part(emit: Emit, x: Any, dim: int, here: list[Any], size: int, axis: str, workers: int) -> Any:
    """The part of dimension `dim`, in shard order, that belongs to this worker."""
    parts = _reshaped(emit, x, [*here[:dim], workers, size, *here[dim + 1 :]])
    return emit(relax.op.take(parts, emit(collectives.axis_index(axis, workers)), axis=dim))


def _is_plain(split: Split, mesh: Mesh) -> bool:
    return len(split.segments) == 1 and not split.is_padded(mesh) and not split.repeated


def _folded(here: Sequence[Any], dim: int, split: Split, size: int) -> tuple[list[Any], int]:
    """The shape with dimension `dim` of unknown size taken apart into a known `size`, what the segments count, and the rest; and where the
    known one stands: after the number of repetitions, or before the length of a block.
    """
    rest = _simple(here[dim] // size)
    apart = [rest, size] if split.repeated else [size, rest]
    return [*here[:dim], *apart, *here[dim + 1 :]], dim + split.repeated


def _swapped(emit: Emit, x: Any, dim: int) -> Any:
    """Dimensions `dim` and the one after it in each other's place."""
    order = list(range(x.ty.ndim))
    order[dim : dim + 2] = dim + 1, dim
    return emit(relax.op.permute_dims(x, order))


def _unknown_in_shard_order(emit: Emit, x: Any, dim: int, here: list[Any], split: Split, mesh: Mesh) -> Any:
    """`_shard_order` of blocks or of a pattern: of what the segments count, each block or each repetition as it is."""
    workers, local = mesh.axis_size(*split.axes), split.local_size(mesh)
    seen, at = _folded(here, dim, split, split.size)
    x = _shard_order(emit, emit(relax.op.reshape(x, seen)), at, seen, Split(split.axes, split.segments), mesh)
    if split.repeated:
        x = emit(relax.op.reshape(x, [*seen[:at], workers, local, *seen[at + 1 :]]))
        x = _swapped(emit, x, dim)
    length = seen[dim if split.repeated else dim + 1] * (workers * local)
    return emit(relax.op.reshape(x, [*here[:dim], _simple(length), *here[dim + 1 :]]))


def _unknown_in_whole_order(emit: Emit, x: Any, dim: int, here: list[Any], split: Split, mesh: Mesh) -> Any:
    """`_whole_order` of blocks or of a pattern."""
    workers, local = mesh.axis_size(*split.axes), split.local_size(mesh)
    seen, at = _folded(here, dim, split, local)
    if split.repeated:
        x = emit(relax.op.reshape(x, [*here[:dim], workers, *seen[dim:]]))
        x = _swapped(emit, x, dim)
    x = emit(relax.op.reshape(x, [*seen[:at], workers * local, *seen[at + 1 :]]))
    x = _whole_order(emit, x, at, seen, Split(split.axes, split.segments), mesh)
    length = seen[dim if split.repeated else dim + 1] * split.size
    return emit(relax.op.reshape(x, [*here[:dim], _simple(length), *here[dim + 1 :]]))


def _shard_order(emit: Emit, x: Any, dim: int, here: list[Any], split: Split, mesh: Mesh) -> Any:
    """Dimension `dim`, whole and in global order, as the shards of all workers one after another, zero padded."""
    if _is_plain(split, mesh):
        return x
    if not split.is_known:
        return _unknown_in_shard_order(emit, x, dim, here, split, mesh)
    workers = mesh.axis_size(*split.axes)
    if len(split.segments) == 1:
        return _padded(emit, x, dim, here, split.segments[0], workers)
    dealt = _dealt(emit, x, dim, here, split.segments, workers)
    return _reshaped(emit, dealt, [*here[:dim], workers * split.local_size(mesh), *here[dim + 1 :]])


def _dealt(emit: Emit, x: Any, dim: int, here: list[Any], segments: Sequence[Segment], workers: int) -> Any:
    """Dimension `dim` as two: the workers, and what each holds. A repeated pattern is dealt out once, beside a dimension of its own."""
    at, parts, found = 0, [], runs(segments)
    for pattern, count in found:
        size, local = (sum(sizes) * count for sizes in _sizes(pattern, workers))
        part = emit(relax.op.strided_slice(x, [dim], [at], [at + size])) if len(found) > 1 else x
        if count > 1:
            apart = [*here[:dim], count, size // count, *here[dim + 1 :]]
            part = _dealt(emit, _reshaped(emit, part, apart), dim + 1, apart, pattern, workers)
            part = _swapped(emit, part, dim)
        else:
            part = _padded(emit, part, dim, here, pattern[0], workers)
        parts.append(_reshaped(emit, part, [*here[:dim], workers, local, *here[dim + 1 :]]))
        at += size
    return parts[0] if len(parts) == 1 else emit(relax.op.concat(parts, axis=dim + 1))


def _padded(emit: Emit, x: Any, dim: int, here: list[Any], segment: Segment, workers: int) -> Any:
    """One segment with zeros after it, up to equal parts."""
    missing = segment.local(workers) * workers - segment.size
    if not missing:
        return x
    zeros = emit(relax.op.zeros([*here[:dim], missing, *here[dim + 1 :]], str(x.ty.dtype)))
    return emit(relax.op.concat([x, zeros], axis=dim))


def _whole_order(emit: Emit, x: Any, dim: int, here: list[Any], split: Split, mesh: Mesh) -> Any:
    """Dimension `dim`, holding the shards of all workers one after another, in global order and without padding."""
    if _is_plain(split, mesh):
        return x
    if not split.is_known:
        return _unknown_in_whole_order(emit, x, dim, here, split, mesh)
    workers, segments = mesh.axis_size(*split.axes), split.segments
    if len(segments) == 1:
        return emit(relax.op.strided_slice(x, [dim], [0], [segments[0].size]))
    x = _reshaped(emit, x, [*here[:dim], workers, split.local_size(mesh), *here[dim + 1 :]])
    return _collected(emit, x, dim, here, segments, workers)


def _collected(emit: Emit, x: Any, dim: int, here: list[Any], segments: Sequence[Segment], workers: int) -> Any:
    """Dimensions `dim`, the workers, and the next, what each holds, as one in global order: the way back from `_dealt`."""
    at, parts, found = 0, [], runs(segments)
    for pattern, count in found:
        size, local = (sum(sizes) * count for sizes in _sizes(pattern, workers))
        part = emit(relax.op.strided_slice(x, [dim + 1], [at], [at + local])) if len(found) > 1 else x
        if count > 1:
            apart = [*here[:dim], count, size // count, *here[dim + 1 :]]
            part = _reshaped(emit, part, [*here[:dim], workers, count, local // count, *here[dim + 1 :]])
            part = _swapped(emit, part, dim)
            part = _collected(emit, part, dim + 1, apart, pattern, workers)
            part = _reshaped(emit, part, [*here[:dim], size, *here[dim + 1 :]])
        else:
            part = _reshaped(emit, part, [*here[:dim], workers * local, *here[dim + 1 :]])
            if workers * local > size:
                part = emit(relax.op.strided_slice(part, [dim], [0], [size]))
        parts.append(part)
        at += local
    return parts[0] if len(parts) == 1 else emit(relax.op.concat(parts, axis=dim))


def _sizes(pattern: Sequence[Segment], workers: int) -> tuple[list[int], list[int]]:
    """The sizes of segments: of all of each, of what a worker holds of it."""
    return [s.size for s in pattern], [s.local(workers) for s in pattern]
