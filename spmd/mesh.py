"""A mesh names the axes over which workers are arranged: ``Mesh(tp=2)``, ``Mesh(dp=2, tp=4)``."""

from __future__ import annotations

import math

from .errors import ShardingError


class Mesh:
    """Workers arranged in a grid with named axes, the first axis major.

    ``Mesh(dp=2, tp=4)`` has 8 workers; worker 5 has coordinates ``{"dp": 1, "tp": 1}``.
    """

    def __init__(self, **axes: int) -> None:
        if not axes:
            raise ShardingError("Mesh()", "a mesh needs at least one axis", "Write Mesh(tp=2), or pass mesh=2 to shard().")
        for name, size in axes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ShardingError("Mesh", f"axis {name!r} has size {size!r}", "An axis size is a whole number of workers, 1 or more.")
        self.axes: dict[str, int] = dict(axes)

    @classmethod
    def of(cls, mesh: Mesh | int) -> Mesh:
        """`mesh` itself, or ``Mesh(tp=mesh)`` for a number of workers."""
        return mesh if isinstance(mesh, Mesh) else cls(tp=mesh)

    @property
    def size(self) -> int:
        """The number of workers."""
        return math.prod(self.axes.values())

    def axis_size(self, *names: str) -> int:
        """The number of workers along the named axes together; a name may be several joined by ``+``."""
        total = 1
        for name in names:
            if name in self.axes:
                total *= self.axes[name]
            else:
                for part in self._parts(name):
                    total *= self.axes[part]
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
        for name in axes:
            for part in self._parts(name):
                index = index * self.axes[part] + where[part]
        return index

    def groups(self, axis: str) -> list[list[int]]:
        """The workers that meet in a collective over `axis` (or several, ``"dp+tp"``): one list a group, in order along it."""
        names = self._parts(axis)
        members: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.size):
            where = self.coordinates(rank)
            members.setdefault(tuple(i for name, i in where.items() if name not in names), []).append(rank)
        return [sorted(group, key=lambda rank: self.index(rank, names)) for group in members.values()]

    def _parts(self, name: str) -> tuple[str, ...]:
        parts = tuple(name.split("+"))
        for part in parts:
            if part not in self.axes:
                raise ShardingError(f"{self}", f"there is no mesh axis {part!r}", f"Its axes are {', '.join(map(repr, self.axes))}.")
        return parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and list(self.axes.items()) == list(other.axes.items())

    def __hash__(self) -> int:
        return hash(tuple(self.axes.items()))

    def __repr__(self) -> str:
        return f"Mesh({', '.join(f'{name}={size}' for name, size in self.axes.items())})"
