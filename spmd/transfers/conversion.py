"""The collectives that take a value from one sharding to another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from spmd.placement.axes import merged, name_of, refined
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split

from .paths import Move, Way, find_path


@dataclass(frozen=True)
class Step:
    """One move. `source` and `target` are the shardings before and after it.

    `kind` is "slice" (each worker keeps its part, nothing is sent), "all_gather", "all_reduce", "reduce_scatter", "all_to_all" or
    "permute" (whole shards change hands). `axis` is what it runs over, several axes joined by ``+``; `dim` is the dimension that is
    gathered, scattered or sliced, `to_dim` the one that all_to_all splits instead.
    """

    kind: str
    axis: str
    source: Sharding
    target: Sharding
    dim: int = -1
    to_dim: int = -1
    reduce: str = ""


def conversion(source: Sharding, target: Sharding, mesh: Mesh) -> list[Step] | None:
    """The steps from `source` to `target` that send the least, or None where there is no way (nothing becomes partial)."""
    if source == target:
        return []
    found = _steps(source, target, mesh)
    return None if found is None else list(found)


def moved_split(step: Step, dim: int, mesh: Mesh) -> Split:
    """How the workers that meet in `step` hold dimension `dim` among them, on the side where they split it."""
    source, target = _in_common_parts(Sharding((step.source.dims[dim],)), Sharding((step.target.dims[dim],)), mesh)
    fewer, most = sorted((source.dims[0], target.dims[0]), key=lambda s: len(s.axes) if s else 0)
    assert most is not None
    if fewer is None or most.axes[: len(fewer.axes)] == fewer.axes:
        return most.inner(len(fewer.axes) if fewer else 0, mesh)
    return most.outermost(len(most.axes) - len(fewer.axes), mesh)


@lru_cache(maxsize=1 << 15)
def _steps(source: Sharding, target: Sharding, mesh: Mesh) -> tuple[Step, ...] | None:
    ends = (source, target)
    source, target = _in_common_parts(source, target, mesh)
    if not set(target.partial) <= set(source.partial):
        return None
    if any(d is not None and d.is_measured and len(d.axes) > 1 for d in (*source.dims, *target.dims)):
        return None  # what the parts of such an axis hold together is measured by nothing that is known
    left = frozenset(axis for axis, _ in target.partial)
    used = dict.fromkeys((*source.axes(), *target.axes()))
    slow = frozenset(axis for axis in used if mesh.is_slow(axis))
    staged = 0 < len(slow) < len(used)
    dims = list(zip(source.dims, target.dims, strict=True))
    split = [i for i, (a, b) in enumerate(dims) if a or b]  # the search is for these alone, and so the same for many shapes
    ways = tuple([_way(*dims[i], mesh, staged) for i in split])
    sizes = tuple([(axis, mesh.axis_size(axis)) for axis in used])
    path = find_path(ways, source.partial, left, sizes, slow if staged else frozenset())
    if path is None:
        return None
    kinds, steps, now, written = dict(source.partial), list[Step](), source, ends[0]
    for i, found in enumerate(path):
        move = Move(found.kind, found.axes, *(split[dim] if dim >= 0 else dim for dim in (found.dim, found.to_dim)))
        after = _after(now, target, move, mesh)
        reduce = kinds[move.axes[0]] if move.kind in ("all_reduce", "reduce_scatter") else ""
        then = ends[1] if i == len(path) - 1 else _written(after, mesh)
        steps.append(Step(move.kind, "+".join(mesh.canonical(move.axes)), written, then, move.dim, move.to_dim, reduce))
        now, written = after, then
    return tuple(steps)


def _in_common_parts(source: Sharding, target: Sharding, mesh: Mesh) -> tuple[Sharding, Sharding]:
    """Both with their axes cut into parts of which each uses all or nothing."""
    names = (*source.axes(), *target.axes())
    if all(name in mesh.axes for name in names):
        return source, target
    parts = mesh.parts(*names)

    def cut(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name_of(part, mesh.axes[part.base]) for part in refined(mesh.parts(*axes), parts))

    def fine(sharding: Sharding) -> Sharding:
        dims = tuple(d and d.over(cut(d.axes), d.segments) for d in sharding.dims)
        return Sharding(dims, tuple((name, kind) for axis, kind in sharding.partial for name in cut((axis,))))

    return fine(source), fine(target)


def _written(sharding: Sharding, mesh: Mesh) -> Sharding:
    """The same placement with axes whose parts follow one another written as one."""
    if all(name in mesh.axes for name in sharding.axes()):
        return sharding
    partial = [(mesh.parts(axis), kind) for axis, kind in sharding.partial]
    kinds = dict.fromkeys(kind for _, kind in partial)
    joined = [(axis, kind) for kind in kinds for axis in merged([p for parts, k in partial if k == kind for p in parts], mesh.axes)]
    return Sharding(tuple(d and d.over(mesh.canonical(d.axes), d.segments) for d in sharding.dims), tuple(joined))


def _way(source: Split | None, target: Split | None, mesh: Mesh, staged: bool) -> Way:
    here, there = source.axes if source else (), target.axes if target else ()
    common = 0
    if source is not None and target is not None:
        while common < min(len(here), len(there)) and source.outer(common + 1, mesh) == target.outer(common + 1, mesh):
            common += 1
    even = staged and all(split is None or split.is_even(mesh) for split in (source, target))
    return Way(here, there, common, _alike(source, target, mesh), even)


def _alike(source: Split | None, target: Split | None, mesh: Mesh) -> bool:
    """Whether the shards are the same, whoever holds them."""
    if source is None or target is None:
        return source is target
    a, b = mesh.axis_size(*source.axes), mesh.axis_size(*target.axes)
    if source.over((), ()) != target.over((), ()):  # of another kind of size
        return False
    return a == b and [(s.size, s.local(a)) for s in source.segments] == [(s.size, s.local(b)) for s in target.segments]


def _after(now: Sharding, target: Sharding, move: Move, mesh: Mesh) -> Sharding:
    if move.kind == "permute":
        return target
    dims = list(now.dims)
    partial = tuple(p for p in now.partial if move.kind not in ("all_reduce", "reduce_scatter") or p[0] not in move.axes)
    if move.kind in ("all_gather", "all_to_all"):
        held = dims[move.dim]
        assert held is not None
        rest = len(held.axes) - len(move.axes)
        dims[move.dim] = held.outer(rest, mesh) if held.axes[rest:] == move.axes else held.minor(len(move.axes), mesh)
    if move.kind in ("slice", "reduce_scatter", "all_to_all"):
        into = move.to_dim if move.kind == "all_to_all" else move.dim
        held, wanted = dims[into], target.dims[into]
        assert wanted is not None
        axes = (*(held.axes if held else ()), *move.axes)
        first = min(map(wanted.axes.index, axes))
        outer = wanted.outer(first + len(axes), mesh)
        assert outer is not None
        dims[into] = outer.minor(first, mesh)
    return Sharding(tuple(dims), partial)
