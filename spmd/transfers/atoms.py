"""Mesh axes cut into the parts that a transfer moves one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, pairwise, permutations

from spmd.placement.axes import Part, name_of, overlap, refined
from spmd.placement.mesh import Mesh

MOST = 4
"""Axes are cut into no more parts than so many, where their names do not ask for it: what there is to search grows as their factorial.
Three axes and more are not cut at all."""


@lru_cache(maxsize=1 << 12)
def atoms_of(names: frozenset[str], mesh: Mesh) -> tuple[Part, ...]:
    """The parts of the named axes, of which each name is all or nothing, in the order of the mesh.

    Axes of different sizes are cut further where that makes some of them as large as others: over ``x=2, y=4``, what `x` splits goes to
    workers along `y` once half of `y` splits it, too.
    """
    order = {base: i for i, base in enumerate(mesh.axes)}
    parts = sorted(set(mesh.parts(*sorted(names))), key=lambda p: (order[p.base], p.before, p.size))
    found = list(dict.fromkeys(refined(parts, parts)))
    finer = [cut for i, part in enumerate(found) for cut in _cut(part, [p.size for j, p in enumerate(found) if j != i])]
    return tuple(finer if len(finer) <= MOST and len(found) < 3 else found)


def _cut(part: Part, others: Sequence[int]) -> list[Part]:
    """A part cut where so many of its workers are as many as those of some of the others."""
    if part.size == 1 or len(others) >= MOST:
        return [part]
    products = {math.prod(some) for count in range(1, len(others) + 1) for some in combinations(others, count)}
    ends = [1]
    for end in sorted({math.gcd(part.size, product) for product in products} | {part.size}):
        if end % ends[-1] == 0 and end > ends[-1]:
            ends.append(end)
    if ends[-1] != part.size:
        return [part]
    return [Part(part.base, part.before * a, b // a) for a, b in pairwise(ends)]


def conflicts(atoms: Sequence[Part]) -> frozenset[tuple[int, int]]:
    """The pairs of atoms that share workers, so that not both can be used: parts of an axis of 6 in halves and in thirds."""
    pairs = combinations(range(len(atoms)), 2)
    return frozenset(pair for i, j in pairs if overlap(atoms[i], atoms[j]) for pair in ((i, j), (j, i)))


def continued(atoms: Sequence[Part]) -> frozenset[tuple[int, int]]:
    """The pairs of atoms of which the second goes on where the first ends."""
    pairs = permutations(range(len(atoms)), 2)
    return frozenset((i, j) for i, j in pairs if atoms[i].base == atoms[j].base and atoms[i].before * atoms[i].size == atoms[j].before)


def names_of(atoms: Sequence[Part], mesh: Mesh) -> tuple[str, ...]:
    """The names of parts one after the other, those that continue one another as one."""
    return mesh.canonical([name_of(atom, mesh.axes[atom.base]) for atom in atoms])


def numbers_of(names: Sequence[str], atoms: Sequence[Part], mesh: Mesh) -> tuple[int, ...]:
    """The atoms that axes consist of, in order."""
    at = {atom: i for i, atom in enumerate(atoms)}
    return tuple([at[part] for part in refined(mesh.parts(*names), atoms)])
