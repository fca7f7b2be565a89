"""The order of a dimension: the moves between that of the whole and that of all shards in a row, and the sizes that go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Sharding, Split, runs
from spmd.rules.extents import Extent, extent_of, part_of, without

Emit = Callable[[Any], Any]
"""Binds an expression to a new variable and returns it."""


def local_dims(dims: Sequence[Any], sharding: Sharding, mesh: Mesh) -> list[Any]:
    """The local shape as TVM expressions."""
    return [d if split is None else local_dim(d, split, mesh) for d, split in zip(dims, sharding.dims, strict=True)]


def local_dim(dim: Any, split: Split, mesh: Mesh) -> Any:
    """The local size of one dimension, of which `dim` is the size before this split."""
    if split.is_known:
        return split.local_size(mesh)
    if split.uneven:
        unit, count = measured(dim, split)
        return _simple((count + (mesh.axis_size(*split.axes) - 1)) // mesh.axis_size(*split.axes) * unit)
    if split.is_padded(mesh):
        return _simple(dim // split.size * split.local_size(mesh))
    return _simple(dim // mesh.axis_size(*split.axes))


def measured(dim: Any, split: Split) -> tuple[Any, Any]:
    """The length by which a dimension is split, and how many there are."""
    assert split.length is not None
    whole = extent_of((dim,))
    part = part_of(whole, split.length)
    if part is None:
        raise ShardingError(f"a dimension of size {dim}", f"it has no length {split.length}", "Plan this module with spmd.plan().")
    return _product(part), _product(without(whole, part))


def _product(product: Extent) -> Any:
    number, terms = product
    found: Any = number
    for term in terms:
        found = found * term
    return _simple(found)


def _simple(size: Any) -> Any:
    """A size as a number or as the shortest expression that TVM finds."""
    if isinstance(size, int):
        return size
    found = tvm.sym.Analyzer().simplify(size)
    return int(found.value) if isinstance(found, tvm.tirx.IntImm) else found


def reshaped(emit: Emit, x: Any, shape: Sequence[Any]) -> Any:
    """`x` under another shape; TVM takes a size of 0 to mean that of `x` in the same place, so what has no elements is made anew."""
    if any(isinstance(n, (int, tvm.tirx.IntImm)) and int(n) == 0 for n in shape):
        return emit(relax.op.zeros(list(shape), str(x.ty.dtype)))
    return emit(relax.op.reshape(x, list(shape)))


def _is_plain(split: Split, mesh: Mesh) -> bool:
    return len(split.segments) == 1 and not split.is_padded(mesh) and not split.repeated


def folded(here: Sequence[Any], dim: int, split: Split, size: int) -> tuple[list[Any], int]:
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
    """`shard_order` of blocks or of a pattern: of what the segments count, each block or each repetition as it is."""
    if split.length is not None:
        return _pattern_apart(emit, x, dim, here, split, mesh, here[dim])
    workers, local = mesh.axis_size(*split.axes), split.local_size(mesh)
    seen, at = folded(here, dim, split, split.size)
    x = shard_order(emit, emit(relax.op.reshape(x, seen)), at, seen, Split(split.axes, split.segments), mesh)
    if split.repeated:
        x = emit(relax.op.reshape(x, [*seen[:at], workers, local, *seen[at + 1 :]]))
        x = _swapped(emit, x, dim)
    length = seen[dim if split.repeated else dim + 1] * (workers * local)
    return emit(relax.op.reshape(x, [*here[:dim], _simple(length), *here[dim + 1 :]]))


def _unknown_in_whole_order(emit: Emit, x: Any, dim: int, here: list[Any], split: Split, mesh: Mesh) -> Any:
    """`whole_order` of blocks or of a pattern."""
    workers, local = mesh.axis_size(*split.axes), split.local_size(mesh)
    seen, at = folded(here, dim, split, local)
    if split.repeated:
        x = emit(relax.op.reshape(x, [*here[:dim], workers, *seen[dim:]]))
        x = _swapped(emit, x, dim)
    x = emit(relax.op.reshape(x, [*seen[:at], workers * local, *seen[at + 1 :]]))
    x = whole_order(emit, x, at, seen, Split(split.axes, split.segments), mesh)
    length = seen[dim if split.repeated else dim + 1] * split.size
    return emit(relax.op.reshape(x, [*here[:dim], _simple(length), *here[dim + 1 :]]))


def _pattern_apart(emit: Emit, x: Any, dim: int, here: list[Any], split: Split, mesh: Mesh, size: Any, *, back: bool = False) -> Any:
    """Repetitions of a pattern of blocks as what each worker has of all of them; with `back`, the other way."""
    workers, (length, count) = mesh.axis_size(*split.axes), measured(size, split)
    parts = [workers, count] if back else [count, workers]
    x = emit(relax.op.reshape(x, [*here[:dim], *parts, _simple(length // workers), *here[dim + 1 :]]))
    return emit(relax.op.reshape(_swapped(emit, x, dim), [*here[:dim], size, *here[dim + 1 :]]))


def shard_order(emit: Emit, x: Any, dim: int, here: list[Any], split: Split, mesh: Mesh) -> Any:
    """Dimension `dim`, whole and in global order, as the shards of all workers one after another, zero padded."""
    if _is_plain(split, mesh):
        return x
    workers = mesh.axis_size(*split.axes)
    if split.uneven:
        length = _simple(local_dim(here[dim], split, mesh) * workers)
        return _lengthened(emit, x, dim, here, length)
    if not split.is_known:
        return _unknown_in_shard_order(emit, x, dim, here, split, mesh)
    if len(split.segments) == 1:
        return _padded(emit, x, dim, here, split.segments[0], workers)
    dealt = _dealt(emit, x, dim, here, split.segments, workers)
    return reshaped(emit, dealt, [*here[:dim], workers * split.local_size(mesh), *here[dim + 1 :]])


def _dealt(emit: Emit, x: Any, dim: int, here: list[Any], segments: Sequence[Segment], workers: int) -> Any:
    """Dimension `dim` as two: the workers, and what each holds. A repeated pattern is dealt out once, beside a dimension of its own."""
    at, parts, found = 0, [], runs(segments)
    for pattern, count in found:
        size, local = (sum(sizes) * count for sizes in _sizes(pattern, workers))
        part = emit(relax.op.strided_slice(x, [dim], [at], [at + size])) if len(found) > 1 else x
        if count > 1:
            apart = [*here[:dim], count, size // count, *here[dim + 1 :]]
            part = _dealt(emit, reshaped(emit, part, apart), dim + 1, apart, pattern, workers)
            part = _swapped(emit, part, dim)
        else:
            part = _padded(emit, part, dim, here, pattern[0], workers)
        parts.append(reshaped(emit, part, [*here[:dim], workers, local, *here[dim + 1 :]]))
        at += size
    return parts[0] if len(parts) == 1 else emit(relax.op.concat(parts, axis=dim + 1))


def _padded(emit: Emit, x: Any, dim: int, here: list[Any], segment: Segment, workers: int) -> Any:
    """One segment with zeros after it, up to equal parts."""
    missing = segment.local(workers) * workers - segment.size
    if not missing:
        return x
    zeros = emit(relax.op.zeros([*here[:dim], missing, *here[dim + 1 :]], str(x.ty.dtype)))
    return emit(relax.op.concat([x, zeros], axis=dim))


def _lengthened(emit: Emit, x: Any, dim: int, here: list[Any], length: Any) -> Any:
    """Dimension `dim`, of a size that is known when the program runs, with zeros after it up to `length`."""
    # Not simplified: TVM cannot lower the reshape of a sum with a remainder in it.
    zeros = emit(relax.op.zeros([*here[:dim], length - here[dim], *here[dim + 1 :]], str(x.ty.dtype)))
    longer = emit(relax.op.concat([x, zeros], axis=dim))
    return emit(relax.op.reshape(longer, [*here[:dim], length, *here[dim + 1 :]]))  # TVM does not see that the sum is this


def whole_order(emit: Emit, x: Any, dim: int, here: list[Any], split: Split, mesh: Mesh, size: Any = None) -> Any:
    """Dimension `dim`, holding the shards of all workers one after another, in global order and without padding; `size` elements, which
    the shards of an uneven one do not tell.
    """
    if _is_plain(split, mesh):
        return x
    if split.uneven:
        return emit(relax.op.strided_slice(x, [dim], [0], [size], assume_inbound=True))
    if split.length is not None:
        return _pattern_apart(emit, x, dim, here, split, mesh, size, back=True)
    if not split.is_known:
        return _unknown_in_whole_order(emit, x, dim, here, split, mesh)
    workers, segments = mesh.axis_size(*split.axes), split.segments
    if len(segments) == 1:
        return emit(relax.op.strided_slice(x, [dim], [0], [segments[0].size]))
    x = reshaped(emit, x, [*here[:dim], workers, split.local_size(mesh), *here[dim + 1 :]])
    return _collected(emit, x, dim, here, segments, workers)


def _collected(emit: Emit, x: Any, dim: int, here: list[Any], segments: Sequence[Segment], workers: int) -> Any:
    """Dimensions `dim`, the workers, and the next, what each holds, as one in global order: the way back from `_dealt`."""
    at, parts, found = 0, [], runs(segments)
    for pattern, count in found:
        size, local = (sum(sizes) * count for sizes in _sizes(pattern, workers))
        part = emit(relax.op.strided_slice(x, [dim + 1], [at], [at + local])) if len(found) > 1 else x
        if count > 1:
            apart = [*here[:dim], count, size // count, *here[dim + 1 :]]
            part = reshaped(emit, part, [*here[:dim], workers, count, local // count, *here[dim + 1 :]])
            part = _swapped(emit, part, dim)
            part = _collected(emit, part, dim + 1, apart, pattern, workers)
            part = reshaped(emit, part, [*here[:dim], size, *here[dim + 1 :]])
        else:
            part = reshaped(emit, part, [*here[:dim], workers * local, *here[dim + 1 :]])
            if workers * local > size:
                part = emit(relax.op.strided_slice(part, [dim], [0], [size]))
        parts.append(part)
        at += local
    return parts[0] if len(parts) == 1 else emit(relax.op.concat(parts, axis=dim))


def _sizes(pattern: Sequence[Segment], workers: int) -> tuple[list[int], list[int]]:
    """The sizes of segments: of all of each, of what a worker holds of it."""
    return [s.size for s in pattern], [s.local(workers) for s in pattern]
