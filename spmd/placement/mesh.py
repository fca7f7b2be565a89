"""A mesh names the axes over which workers are arranged: ``Mesh(tp=2)``, ``Mesh(dp=2, tp=4)``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError

from .axes import Part, is_name, merged, name_of, overlap, part_of, refined
from .html import mesh_html

MeshLike: TypeAlias = "Mesh | int | Mapping[str, int]"
_MOST = 1 << 20
NETWORK = "network"
"""The name of the link between hosts in hardware profiles."""


class Mesh:
    """Workers arranged in a grid with named axes, the first axis major.

    ``Mesh(dp=2, tp=4)`` has 8 workers; worker 5 has coordinates ``{"dp": 1, "tp": 1}``.
    ``Mesh(dp=2, tp=4, hosts=2)``: they stand on two hosts, as many on each, so that `dp` crosses hosts and `tp` does not. `devices`
    says which device each worker runs on, by rank; devices are numbered host by host, and without it worker r runs on device r.
    ``Mesh(dp=2, tp=4, links={"dp": "ethernet"})``: `links` gives an axis a link of the hardware profile, by name (see `link`).
    """

    @door("Write Mesh(tp=2), or Mesh(dp=2, tp=4).")
    def __init__(
        self, *, links: Mapping[str, str] | None = None, hosts: int = 1, devices: Sequence[int] | None = None, **axes: int
    ) -> None:
        if not axes:
            raise ShardingError("Mesh()", "a mesh needs at least one axis", "Write Mesh(tp=2), or pass mesh=2 to shard().")
        self.axes: dict[str, int] = {name: _checked_size(name, size) for name, size in axes.items()}
        self.links: dict[str, str] = _checked_links(links, self.axes)
        """Axis -> the name of what it runs over, where that is said."""
        self.hosts = checks.index(hosts) or 0
        """The number of hosts."""
        if self.size > _MOST:
            raise ShardingError("Mesh", f"it has {self.size} workers", f"At most {_MOST} can be planned for.")
        if self.hosts < 1 or self.size % self.hosts:
            what = f"{self.size} workers cannot stand on {hosts!r} hosts, as many on each"
            raise ShardingError("Mesh", what, "The number of hosts divides the number of workers.")
        self.devices: tuple[int, ...] = tuple(range(self.size)) if devices is None else _checked_devices(devices, self.size)
        """The number of the device that each worker runs on, by rank."""
        self._crossing: dict[str, bool] = {}

    @classmethod
    def of(cls, mesh: MeshLike) -> Mesh:
        """`mesh` itself, ``Mesh(tp=mesh)`` for a number of workers, or ``Mesh(**mesh)`` for a dictionary of axes."""
        return cls.taken("mesh", mesh)

    @classmethod
    def taken(cls, where: str, given: Any) -> Mesh:
        """`of` as a check of arguments; `where` is what errors begin with."""
        if isinstance(given, Mesh):
            return given
        if isinstance(given, Mapping) and all(isinstance(name, str) for name in cast("Mapping[Any, Any]", given)):
            return cls(**cast("Mapping[str, Any]", given))
        if (workers := checks.index(given)) is not None:
            return cls(tp=workers)
        shape = [checks.index(size) for size in cast("Sequence[Any]", given)] if isinstance(given, tuple | list) else []
        names = ("tp",) if len(shape) == 1 else ("dp", "tp") if len(shape) == 2 else tuple(f"axis{i}" for i in range(len(shape)))
        numbers = all(size is not None for size in shape)
        meant = ", ".join(f"{name}={size if numbers else 2}" for name, size in zip(names, shape, strict=True)) or "tp=2"
        raise ShardingError(where, f"it takes a Mesh or a number of workers, and got {told(given)}", f"Write Mesh({meant}).")

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
            if isinstance(name, str) and name in self.axes:  # pyright: ignore[reportUnnecessaryIsInstance]
                total *= self.axes[name]
            else:
                for part in self.parts(name):
                    total *= part.size
        return total

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where worker `rank` stands along each axis."""
        if not isinstance(rank, int) or not 0 <= rank < self.size:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError(f"{self}", f"there is no worker {rank!r}", f"Workers are 0 to {self.size - 1}.")
        where: dict[str, int] = {}
        for name, size in reversed(self.axes.items()):
            rank, where[name] = divmod(rank, size)
        return {name: where[name] for name in self.axes}

    def index(self, rank: int, axes: tuple[str, ...]) -> int:
        """The position of worker `rank` along `axes` taken as one, major first."""
        where, index = self.coordinates(rank), 0
        if not isinstance(axes, tuple | list):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError(f"{self}", f"it takes a tuple of axes, and got {told(axes)}", 'Write ("tp",).')
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

    def host(self, rank: int) -> int:
        """The host on which worker `rank` stands: each has as many of the devices, in order of their numbers."""
        self.coordinates(rank)  # there is such a worker
        return self._places[self.devices[rank]] * self.hosts // self.size

    @cached_property
    def _places(self) -> dict[int, int]:
        return {device: place for place, device in enumerate(sorted(self.devices))}

    def crosses_hosts(self, axis: str) -> bool:
        """Whether workers of two hosts meet in a collective over `axis` (or a part of it, or several, ``"dp+tp"``)."""
        found = self._crossing.get(axis) if isinstance(axis, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        if found is None:
            self.parts(axis)  # there is such an axis
            found = self.hosts > 1 and any(len({self.host(rank) for rank in group}) > 1 for group in self.groups(axis))
            self._crossing[axis] = found
        return found

    def link(self, axis: str) -> str:
        """The name of what an axis (or a part of it) runs over: what `links` says, or the network where it crosses hosts.

        Empty for the profile's own link between workers.
        """
        (part,) = self.parts(axis)
        return self.links.get(part.base) or (NETWORK if self.crosses_hosts(axis) else "")

    def is_slow(self, axis: str) -> bool:
        """Whether an axis (or a part of it) runs between hosts, where a byte takes much longer than within one."""
        if self.hosts == 1 and not self.links:
            return False
        return self.link(axis) == NETWORK or self.crosses_hosts(axis)

    def parts(self, *axes: str) -> list[Part]:
        """What these names mean, names joined by ``+`` one after the other."""
        found: list[Part] = []
        for name in axes:
            for single in name.split("+") if isinstance(name, str) else (name,):  # pyright: ignore[reportUnnecessaryIsInstance]
                part = part_of(single, self._sizes) if isinstance(single, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
                if part is None:
                    what = f"there is no mesh axis {single!r}"
                    raise ShardingError(f"{self}", what, f"Its axes are {', '.join(map(repr, self.axes))}.")
                found.append(part)
        return found

    def has(self, name: str) -> bool:
        """Whether this is the name of an axis or of a part of one."""
        return isinstance(name, str) and part_of(name, self._sizes) is not None  # pyright: ignore[reportUnnecessaryIsInstance]

    def canonical(self, axes: Sequence[str]) -> tuple[str, ...]:
        """`axes` with parts that continue one another put together."""
        axes = checks.texts("Mesh.canonical(), axes", axes) if not isinstance(axes, tuple | list) else axes
        return tuple(axes) if all(name in self.axes for name in map(_text, axes)) else merged(self.parts(*axes), self.axes)

    def _without(self, parts: Sequence[Part]) -> tuple[str, ...]:
        """Names for all that is no part of these."""
        whole = refined([Part(name, 1, size) for name, size in self.axes.items()], parts)
        return tuple(name_of(p, self.axes[p.base]) for p in whole if not any(overlap(p, q) for q in parts))

    @cached_property
    def _key(self) -> tuple[object, ...]:
        return self._sizes, tuple(self.links.items()), self.hosts, self.devices

    @cached_property
    def _hash(self) -> int:
        """Meshes are looked up all the time; their hash is worked out once."""
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and (self is other or self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}  # another one in another process

    def extras(self) -> dict[str, Any]:
        """What was said of it besides the axes, as arguments of `Mesh`; what follows from the axes alone is left out."""
        said = {"links": self.links, "hosts": self.hosts, "devices": list(self.devices)}
        plain = {"links": {}, "hosts": 1, "devices": list(range(self.size))}
        return {name: value for name, value in said.items() if value != plain[name]}

    def __repr__(self) -> str:
        return f"Mesh({', '.join(f'{name}={value}' for name, value in {**self.axes, **self.extras()}.items())})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the workers as a grid."""

        def place(rank: int) -> str:
            host = f", host {self.host(rank)}" if self.hosts > 1 else ""
            return f"{rank}{host}" + (f", device {self.devices[rank]}" if "devices" in self.extras() else "")

        return mesh_html(repr(self), self.axes, place)


def _text(name: object) -> str:
    """A name that can be looked up; what is none is the name of nothing."""
    return name if isinstance(name, str) else ""


def _checked_size(name: str, size: object) -> int:
    """The size of an axis, whose name the text of a sharding can hold."""
    if not is_name(name):
        what = f"an axis has the name {name!r}"
        raise ShardingError("Mesh", what, "Shardings are written with it: a name is letters, digits and _, as of a variable.")
    found = checks.index(size)
    if found is None or found < 1:
        raise ShardingError("Mesh", f"axis {name!r} has size {size!r}", "An axis size is a whole number of workers, 1 or more.")
    return found


def _checked_links(links: Mapping[str, str] | None, axes: Mapping[str, int]) -> dict[str, str]:
    """`links` in the order of the axes."""
    if links is not None and not isinstance(links, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ShardingError("Mesh", f"links is {links!r}", 'It maps axes to links: links={"dp": "network"}. No axis can have that name.')
    for name, link in (links or {}).items():
        if not isinstance(name, str) or name not in axes:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("Mesh", f"links names {name!r}, which is no axis", f"Its axes are {', '.join(map(repr, axes))}.")
        if not isinstance(link, str) or not link:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("Mesh", f"the link of axis {name!r} is {link!r}", 'A link has a name, such as "network".')
    return {name: links[name] for name in axes if name in links} if links else {}


def _checked_devices(devices: Sequence[int], workers: int) -> tuple[int, ...]:
    listed = isinstance(devices, Sequence | np.ndarray)  # pyright: ignore[reportUnnecessaryIsInstance]
    given = [checks.index(d) for d in devices] if listed else []
    found = tuple(d for d in given if d is not None and d >= 0)
    if len(found) != len(given) or len(set(found)) != workers or len(found) != workers:
        way_out = f"It has a device for each of {workers} workers, numbers from 0 on, no two the same."
        raise ShardingError("Mesh", f"devices is {devices!r}", way_out)
    return found
