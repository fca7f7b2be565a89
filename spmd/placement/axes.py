"""Names of mesh axes and of parts of them. ``"tp(2)4"`` is a part of ``"tp"``: 4 positions, 2 blocks of them before it.

A mesh axis of 8 workers is ``"tp(1)4"``, major, and ``"tp(4)2"``, minor: position i along it is i // 2 along the first and i % 2 along
the second. The notation is Shardy's. Several names joined by ``+`` are one axis, the first one major.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

AXIS = r"\w+(?:\(\d+\)\d+)?"
"""A regular expression for the name of an axis or a part of one."""
_PART = re.compile(r"(\w+?)\((\d+)\)(\d+)")
Axes = tuple[str, ...]


def is_name(name: str) -> bool:
    """Whether an axis can have this name: what is written with it reads back."""
    return name.isidentifier() and re.fullmatch(r"\w+", name) is not None


@dataclass(frozen=True)
class Part:
    """The positions of `base` from `before` to ``before * size``, as factors of its size."""

    base: str
    before: int
    size: int


@lru_cache(maxsize=1 << 12)
def part_of(name: str, sizes: tuple[tuple[str, int], ...]) -> Part | None:
    """What a single name means on a mesh of these axes; None where it means nothing."""
    known = dict(sizes)
    if name in known:
        return Part(name, 1, known[name])
    match = _PART.fullmatch(name)
    if match is None or match[1] not in known:
        return None
    part = Part(match[1], int(match[2]), int(match[3]))
    return part if part.before and part.size and known[part.base] % (part.before * part.size) == 0 else None


def name_of(part: Part, total: int) -> str:
    """The name of a part of an axis of `total` workers."""
    return part.base if part.size == total else f"{part.base}({part.before}){part.size}"


def merged(parts: Iterable[Part], sizes: Mapping[str, int]) -> Axes:
    """Names for these parts in their order, those that continue one another as one."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if last is not None and last.base == part.base and last.before * last.size == part.before:
            found[-1] = Part(last.base, last.before, last.size * part.size)
        else:
            found.append(part)
    return tuple(name_of(part, sizes[part.base]) for part in found)


def overlap(a: Part, b: Part) -> bool:
    """Whether two parts share positions of an axis, so that not both can split one tensor."""
    return a.base == b.base and a.before < b.before * b.size and b.before < a.before * a.size


def refined(parts: Sequence[Part], others: Iterable[Part]) -> list[Part]:
    """`parts` cut wherever one of `others` begins or ends within them."""
    found: list[Part] = []
    others = list(others)
    for part in parts:
        ends = {part.before, part.before * part.size}
        for other in others:
            if other.base == part.base:
                ends |= {at for at in (other.before, other.before * other.size) if part.before < at < part.before * part.size}
        cuts = sorted(ends)
        exact = len(cuts) > 1 and all(b % a == 0 for a, b in pairwise(cuts))
        found += [Part(part.base, a, b // a) for a, b in pairwise(cuts)] if exact else [part]
    return found


def divided(parts: Sequence[Part], size: int) -> tuple[list[Part], list[Part]] | None:
    """The parts that make up `size` positions, major first, and the rest; None where no cut gives them."""
    head: list[Part] = []
    for i, part in enumerate(parts):
        if size == 1:
            return head, list(parts[i:])
        if size % part.size == 0:
            head.append(part)
            size //= part.size
        elif part.size % size == 0:
            rest = Part(part.base, part.before * size, part.size // size)
            return [*head, Part(part.base, part.before, size)], [rest, *parts[i + 1 :]]
        else:
            return None
    return (head, []) if size == 1 else None
