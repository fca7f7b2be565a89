"""A mesh names the axes over which workers are arranged: ``Mesh(tp=2)``, ``Mesh(dp=2, tp=4)``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

from .axes import Part, merged, name_of, overlap, part_of, refined
from .errors import ShardingError


class Mesh:
    """Workers arranged in a grid with named axes, the first axis major.

    ``Mesh(dp=2, tp=4)`` has 8 workers; worker 5 has coordinates ``{"dp": 1, "tp": 1}``.
    ``Mesh(dp=2, tp=4, links={"dp": "network"})``: its two hosts hold 4 workers each. `links` gives an axis a link of the hardware profile;
    others run over the profile's own.
    """

    def __init__(self, *, links: Mapping[str, str] | None = None, **axes: int) -> None:
        if not axes:
            raise ShardingError("Mesh()", "a mesh needs at least one axis", "Write Mesh(tp=2), or pass mesh=2 to shard().")
        for name, size in axes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ShardingError("Mesh", f"axis {name!r} has size {size!r}", "An axis size is a whole number of workers, 1 or more.")
        self.axes: dict[str, int] = dict(axes)
        if links is not None and not isinstance(links, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError(
                "Mesh", f"links is {links!r}", 'It maps axes to links: links={"dp": "network"}. No axis can have that name.'
            )
        for name, link in (links or {}).items():
            if name not in axes:
                raise ShardingError("Mesh", f"links names {name!r}, which is no axis", f"Its axes are {', '.join(map(repr, axes))}.")
            if not isinstance(link, str) or not link:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ShardingError("Mesh", f"the link of axis {name!r} is {link!r}", 'A link has a name, such as "network".')
        self.links: dict[str, str] = {name: links[name] for name in axes if name in links} if links else {}
        """Axis -> the name of what it runs over, where that is not the fastest link of a worker."""

    @classmethod
    def of(cls, mesh: Mesh | int) -> Mesh:
        """`mesh` itself, or ``Mesh(tp=mesh)`` for a number of workers."""
        return mesh if isinstance(mesh, Mesh) else cls(tp=mesh)

    @cached_property
    def _sizes(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.axes.items())

    @property
    def size(self) -> int:
        """The number of workers."""
        return math.prod(self.axes.values())

    def axis_size(self, *names: str) -> int:
        """The number of workers along the named axes together; a name may be several joined by ``+``, or a part (see `axes`)."""
        total = 1
        for name in names:
            if name in self.axes:
                total *= self.axes[name]
            else:
                for part in self.parts(name):
                    total *= part.size
        return total

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where worker `rank` stands along each axis."""
        if not 0 <= rank < self.size:
            raise ShardingError(f"{self}", f"there is no worker {rank}", f"Workers are 0 to {self.size - 1}.")
        where: dict[str, int] = {}
        for name, size in reversed(self.axes.items()):
            rank, where[name] = divmod(rank, size)
        return {name: where[name] for name in self.axes}

    def index(self, rank: int, axes: tuple[str, ...]) -> int:
        """The position of worker `rank` along `axes` taken as one, major first."""
        where, index = self.coordinates(rank), 0
        for part in self.parts(*axes):
            after = self.axes[part.base] // (part.before * part.size)
            index = index * part.size + where[part.base] // after % part.size
        return index

    def groups(self, axis: str) -> list[list[int]]:
        """The workers that meet in a collective over `axis` (or several, ``"dp+tp"``): one list a group, in order along it."""
        names = (axis,)
        members: dict[tuple[int, ...], list[int]] = {}
        rest = self._without(self.parts(axis))
        for rank in range(self.size):
            members.setdefault(tuple(self.index(rank, (name,)) for name in rest), []).append(rank)
        return [sorted(group, key=lambda rank: self.index(rank, names)) for group in members.values()]

    def parts(self, *axes: str) -> list[Part]:
        """What these names mean, names joined by ``+`` one after the other."""
        found: list[Part] = []
        for name in axes:
            for single in name.split("+"):
                part = part_of(single, self._sizes)
                if part is None:
                    what = f"there is no mesh axis {single!r}"
                    raise ShardingError(f"{self}", what, f"Its axes are {', '.join(map(repr, self.axes))}.")
                found.append(part)
        return found

    def has(self, name: str) -> bool:
        """Whether this is the name of an axis or of a part of one."""
        return part_of(name, self._sizes) is not None

    def canonical(self, axes: Sequence[str]) -> tuple[str, ...]:
        """`axes` with parts that continue one another put together."""
        return tuple(axes) if all(name in self.axes for name in axes) else merged(self.parts(*axes), self.axes)

    def _without(self, parts: Sequence[Part]) -> tuple[str, ...]:
        """Names for all that is no part of these."""
        whole = refined([Part(name, 1, size) for name, size in self.axes.items()], parts)
        return tuple(name_of(p, self.axes[p.base]) for p in whole if not any(overlap(p, q) for q in parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and list(self.axes.items()) == list(other.axes.items()) and self.links == other.links

    def __hash__(self) -> int:
        return hash(tuple(self.axes.items()))

    def __repr__(self) -> str:
        links = f", links={self.links}" if self.links else ""
        return f"Mesh({', '.join(f'{name}={size}' for name, size in self.axes.items())}{links})"
