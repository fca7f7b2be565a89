"""The collectives and local moves that take a value from one sharding to another, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split

from .atoms import atoms_of, names_of, numbers_of
from .tiling import Tiling


@dataclass(frozen=True)
class Move:
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

    @property
    def into(self) -> int:
        """The dimension that it splits further, or -1."""
        return self.to_dim if self.kind == "all_to_all" else self.dim if self.kind in ("slice", "reduce_scatter") else -1

    @property
    def off(self) -> int:
        """The dimension that it puts together, or -1."""
        return self.dim if self.kind in ("all_gather", "all_to_all") else -1


@lru_cache(maxsize=1 << 15)
def move_between(source: Sharding, target: Sharding, mesh: Mesh) -> Move | None:
    """The one move from a sharding to another, or None where it takes none, or more."""
    return _Between(source, target, mesh).step()


def moves_through(path: tuple[Sharding, ...], mesh: Mesh) -> list[Move] | None:
    """The moves from each sharding of a path to the next; None where some pair of them is more than one move apart."""
    steps = [move_between(a, b, mesh) for a, b in pairwise(path) if not same_placement(a, b, mesh)]
    found = [step for step in steps if step is not None]
    return found if len(found) == len(steps) else None


@lru_cache(maxsize=1 << 15)
def same_placement(source: Sharding, target: Sharding, mesh: Mesh) -> bool:
    """Whether two shardings, however they are written, leave every worker with the same."""
    if source == target:
        return True
    between = _Between(source, target, mesh)
    return len(source.dims) == len(target.dims) and dict(source.partial) == dict(target.partial) and not between.changed()


def moved_split(step: Move, dim: int, mesh: Mesh) -> Split:
    """How the workers that meet in `step` hold dimension `dim` among them, on the side where they split it."""
    source, target = step.source.dims[dim], step.target.dims[dim]
    if source is None or target is None:
        found = source or target
        assert found is not None
        return found
    source, target = _in_common_atoms(source, target, mesh)
    fewer, most = sorted((source, target), key=lambda split: len(split.axes))
    if most.axes[: len(fewer.axes)] == fewer.axes:
        return most.inner(len(fewer.axes), mesh)
    return most.outermost(len(most.axes) - len(fewer.axes), mesh)


def _in_common_atoms(source: Split, target: Split, mesh: Mesh) -> tuple[Split, Split]:
    """Both over parts of axes of which each uses all or nothing."""
    if all(name in mesh.axes for name in (*source.axes, *target.axes)):
        return source, target
    atoms = atoms_of(frozenset((*source.axes, *target.axes)), mesh)

    def fine(split: Split) -> Split:
        names = tuple([names_of([atoms[i]], mesh)[0] for i in numbers_of(split.axes, atoms, mesh)])
        return split.over(names, split.segments)

    return fine(source), fine(target)


class _Between:
    """What is different between two shardings: each dimension as its tiling and its atoms."""

    def __init__(self, source: Sharding, target: Sharding, mesh: Mesh) -> None:
        self.source, self.target, self.mesh = source, target, mesh
        self.atoms = atoms_of(frozenset((*source.axes(), *target.axes())), mesh)
        self.before, self.after = ([self._seen(split) for split in s.dims] for s in (source, target))
        self.sums, self.left = ({atom: kind for name, kind in s.partial for atom in self._numbers((name,))} for s in (source, target))

    def _numbers(self, names: tuple[str, ...]) -> tuple[int, ...]:
        return numbers_of(names, self.atoms, self.mesh)

    def _seen(self, split: Split | None) -> tuple[Tiling, tuple[int, ...]] | None:
        return split and (Tiling.by(split, self.mesh), self._numbers(split.axes))

    def changed(self) -> list[int]:
        """The dimensions that are split otherwise."""
        return [dim for dim, (a, b) in enumerate(zip(self.before, self.after, strict=True)) if a != b]

    def step(self) -> Move | None:
        """The one move that makes the difference."""
        if len(self.before) != len(self.after) or not self.left.items() <= self.sums.items():
            return None
        gone = {atom: kind for atom, kind in self.sums.items() if atom not in self.left}
        return self._reduced(gone) if gone else self._moved()

    def _reduced(self, gone: dict[int, str]) -> Move | None:
        changed, (kind, *others) = self.changed(), dict.fromkeys(gone.values())
        if others or len(changed) > 1:
            return None
        if not changed:
            return self._made("all_reduce", tuple(sorted(gone)), reduce=kind)
        put = self._taken_off(changed[0], back=True)
        if put is None or set(put) != set(gone) or kind != "sum":
            return None
        return self._made("reduce_scatter", put, changed[0], reduce=kind)

    def _moved(self) -> Move | None:
        changed = self.changed()
        put = {dim: self._taken_off(dim, back=True) for dim in changed}
        taken = {dim: self._taken_off(dim) for dim in changed}
        if len(changed) == 1:
            (dim,) = changed
            added, removed = put[dim], taken[dim]
            if added is not None and not {atom for seen in self.before if seen for atom in seen[1]} & set(added):
                return None if set(added) & set(self.sums) else self._made("slice", added, dim)
            if removed is not None:
                return self._made("all_gather", removed, dim)
        if len(changed) == 2:
            for dim, to_dim in (changed, changed[::-1]):
                removed = taken[dim]
                if removed is not None and removed == put[to_dim]:
                    return self._made("all_to_all", removed, dim, to_dim)
        return self._exchanged(changed)

    def _exchanged(self, changed: list[int]) -> Move | None:
        """Whole shards can change hands where the same ones are held before and after, by whomever."""
        atoms: set[int] = set()
        for a, b in ((self.before[dim], self.after[dim]) for dim in changed):
            if a is None or b is None or a[0] != b[0] or self._workers(a[1]) != self._workers(b[1]):
                return None
            atoms.update((*a[1], *b[1]))
        return self._made("permute", tuple(sorted(atoms))) if atoms and not atoms & set(self.sums) else None

    def _workers(self, atoms: tuple[int, ...]) -> int:
        total = 1
        for atom in atoms:
            total *= self.atoms[atom].size
        return total

    def _taken_off(self, dim: int, back: bool = False) -> tuple[int, ...] | None:
        """The atoms that are taken off a dimension, or put onto it on the way back; None where it is not as simple as that."""
        most, fewer = (self.after[dim], self.before[dim]) if back else (self.before[dim], self.after[dim])
        if most is None or fewer is None:
            return most and most[1]
        count = len(most[1]) - len(fewer[1])
        if count > 0 and most[1][:-count] == fewer[1] and most[0] == fewer[0]:
            return most[1][-count:]
        if count > 0 and most[1][count:] == fewer[1] and self._in_pieces(dim, most, back) == fewer[0]:
            return most[1][:count]
        return None

    def _in_pieces(self, dim: int, most: tuple[Tiling, tuple[int, ...]], back: bool) -> Tiling | None:
        """The tiling of an even split without its major atoms, that the workers along them hold together."""
        split = (self.target if back else self.source).dims[dim]
        fewer = (self.source if back else self.target).dims[dim]
        if split is None or fewer is None or not split.is_even(self.mesh):
            return None
        cuts = self.mesh.axis_size(*split.axes) // self.mesh.axis_size(*fewer.axes)
        return Tiling.by(most[0].split(fewer.axes, cuts, self.mesh), self.mesh)

    def _made(self, kind: str, atoms: tuple[int, ...], dim: int = -1, to_dim: int = -1, reduce: str = "") -> Move:
        axis = "+".join(names_of([self.atoms[i] for i in atoms], self.mesh))
        return Move(kind, axis, self.source, self.target, dim, to_dim, reduce)
