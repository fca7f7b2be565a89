"""Predicted times, in seconds: roofline and launches for operators, bytes and latency for conversions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.program.graph import Node, Value
from spmd.rules.strategy import Strategy
from spmd.transfers.conversion import Move, moved_split
from spmd.transfers.graph import Floats
from spmd.transfers.transfers import Transfers

from .profile import Link, Profile, profile_taken
from .work import Sent, Work, Works

__all__ = ["INFEASIBLE", "Cost", "CostFactory", "Sent", "Work"]

INFEASIBLE = 1e9
"""The cost of what cannot be done; finite, so that sums stay comparable."""
_SLICE = 1e-9
"""A slice sends nothing; it costs just enough not to be made for nothing."""


_SLOWEST = {"bandwidth": min, "latency": max, "hop": max}
"""What a collective over several links meets of their numbers."""


class Cost(Works):
    """Times under a hardware profile, with `sizes` for symbolic dimensions by name.

    To plan by other times, pass a subclass as ``cost=`` that overrides `compute_time`, `exchange_time` or both. They must give the
    same seconds for the same arguments: what is alike shares its time.
    """

    @door(
        "It takes a Mesh, a Profile, and perhaps sizes and memory.",
        mesh=checks.instance(Mesh, "Write Mesh(tp=2)."),
        profile=profile_taken,
        sizes=checks.maybe(checks.sizes),
        memory=checks.maybe(checks.memory),
    )
    def __init__(self, mesh: Mesh, profile: Profile, sizes: Mapping[str, int] | None = None, memory: float | None = None) -> None:
        super().__init__(mesh, sizes)
        self.profile = profile
        self.memory = profile.memory if memory is None else memory
        """Bytes that a worker may hold; None is no limit."""
        self.has_own_budget = memory is not None
        """Whether that is asked for, and not just what the profile has."""
        self._link_of: dict[str, Link] = {}
        self.transfers = Transfers(mesh, self.move_time, self.held_size)
        self._converted: dict[tuple[object, ...], float] = {}
        self._no_time: float | None = None
        """What `exchange_time` gave that is no time: a way that needs it is an error."""
        for axis in mesh.axes:  # what the profile lacks is an error before anything is planned
            self.link(axis)

    @property
    def name(self) -> str:
        """What the times come from: the profile, and the class where it is not this one."""
        return self.profile.name if type(self) is Cost else f"{self.profile.name} ({type(self).__name__})"

    def step_bytes(self, step: Move, shape: tuple[int, ...], item: int) -> int:
        """Bytes of the tensor that each worker brings to a collective; what is scattered is padded first."""
        held = self.local_bytes(shape, item, step.source)
        return held if step.into < 0 else self._padded_bytes(step, step.into, shape, item)

    def _padded_bytes(self, step: Move, into: int, shape: tuple[int, ...], item: int) -> int:
        """What a worker holds before a step that cuts dimension `into`, with the padding that this takes."""
        held, split = self.local_bytes(shape, item, step.source), moved_split(step, into, self.mesh)
        if split.uneven:
            return held // (shape[into] or 1) * self.held_size(shape[into], split) * self.mesh.axis_size(step.axis)
        return held * split.local_size(self.mesh) * self.mesh.axis_size(step.axis) // split.size if shape[into] else held

    def convert(self, shape: tuple[int, ...], item: int, source: Sharding, target: Sharding, gather: bool = True) -> float:
        """The time to take a tensor of the planning `shape` from one sharding to another."""
        if source == target:
            return 0.0
        key = (shape, item, source, target, gather)
        if key not in self._converted:
            self._converted[key] = float(self.conversions(shape, item, (source,), (target,), gather)[0, 0])
        return self._converted[key]

    def conversions(
        self, shape: tuple[int, ...], item: int, sources: Sequence[Sharding], targets: Sequence[Sharding], gather: bool = True
    ) -> Floats:
        """The time to take a tensor of the planning `shape` from each of `sources` (rows) to each of `targets` (columns).

        All pairs are priced at once. Without `gather`, no way that gathers is taken.
        """
        if not item:  # an object cannot be moved
            stays = [[a == b or (a.is_replicated and b.is_replicated) for b in targets] for a in sources]
            return np.where(np.array(stays, bool).reshape(len(sources), len(targets)), 0.0, INFEASIBLE)
        found = self.transfers.seconds(shape, item, sources, targets, gather=gather)
        if self._no_time is not None and np.isinf(found).any():
            i, j = np.argwhere(np.isinf(found))[0]
            raise self._wrong(self._no_time, f"{sources[i]} -> {targets[j]}")
        return np.minimum(found, INFEASIBLE)

    def steps(self, value: Value, source: Sharding, target: Sharding, gather: bool = True) -> tuple[Move, ...] | None:
        """The moves that take a value from one sharding to another the fastest, or None where there is no way.

        None of them gathers where `gather` or what is asked of the value forbids that.
        """
        return self.transfers.steps(self.shape(value), self.item_bytes(value), source, target, gather=gather and value.may_gather)

    def step_time(self, step: Move, shape: tuple[int, ...], item: int) -> float:
        """The time of one move of a tensor of the planning `shape`."""
        return self.move_time(step.kind, step.axis, self.step_bytes(step, shape, item), self.reorder_bytes(step, shape, item))

    def step_times(self, step: Move, shape: tuple[int, ...], item: int) -> tuple[float, float, float]:
        """The parts of `step_time`: putting elements in order before the move, the move itself, putting them in order after it."""
        moved = self.move_time(step.kind, step.axis, self.step_bytes(step, shape, item), 0)
        bandwidth = self.profile.memory_bandwidth
        return self._pack_bytes(step, shape, item) / bandwidth, moved, self._unpack_bytes(step, shape, item) / bandwidth

    def move_time(self, kind: str, axis: str, held: int, ordered: int) -> float:
        """The time of a collective, or a slice, to which each worker brings `held` bytes; `ordered` bytes are put in order around it."""
        local = ordered / self.profile.memory_bandwidth
        workers = self.mesh.axis_size(axis)
        if kind == "slice" or workers == 1:
            return _SLICE + local + held / workers / self.profile.memory_bandwidth
        seconds = self.exchange_time(kind, axis, held)
        if not 0 <= seconds < INFEASIBLE:
            self._no_time = seconds
            return math.inf
        return local + seconds

    def reorder_bytes(self, step: Move, shape: tuple[int, ...], item: int) -> int:
        """Bytes that a worker reads and writes to put a dimension in the order of shards, padded, or back in its own."""
        return self._pack_bytes(step, shape, item) + self._unpack_bytes(step, shape, item)

    def _pack_bytes(self, step: Move, shape: tuple[int, ...], item: int) -> int:
        if step.into < 0 or not self._is_reordered(step, step.into):
            return 0
        return self.local_bytes(shape, item, step.source) + self._padded_bytes(step, step.into, shape, item)

    def _unpack_bytes(self, step: Move, shape: tuple[int, ...], item: int) -> int:
        return 2 * self.local_bytes(shape, item, step.target) if step.off >= 0 and self._is_reordered(step, step.off) else 0

    def _is_reordered(self, step: Move, dim: int) -> bool:
        split = moved_split(step, dim, self.mesh)
        return not split.symbolic and (len(split.segments) > 1 or split.is_padded(self.mesh))

    def exchange_time(self, kind: str, axis: str, held: int) -> float:
        """The time of one collective to which each worker brings `held` bytes: ring algorithms, over the link of the axis."""
        if not isinstance(kind, str) or not isinstance(held, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("Cost.exchange_time", f"it takes a collective and bytes, and got {told(kind)} and {told(held)}")
        workers, link = self.mesh.axis_size(axis), self.link(axis)
        factor = {"all_reduce": 2 * (workers - 1) / workers, "all_gather": workers - 1, "permute": 1, "broadcast": 1}
        return self.latency(kind, axis) + held * factor.get(kind, (workers - 1) / workers) / link.bandwidth

    def latency(self, kind: str, axis: str) -> float:
        """What a collective takes beside its bytes: steps around a ring within a host, up and down a tree between hosts."""
        workers, link = self.mesh.axis_size(axis), self.link(axis)
        around = math.ceil(math.log2(workers)) if self.mesh.crosses_hosts(axis) else workers - 1
        steps = {"all_reduce": 2 * (around - 1), "permute": 0}
        return link.latency + link.hop * steps.get(kind, around - 1)

    def link(self, axis: str) -> Link:
        """What an axis or a part of one runs over; several joined run as slowly as the slowest of them."""
        found = self._link_of.get(axis) if isinstance(axis, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        if found is None:
            self.mesh.parts(axis)  # there is such an axis
            links = [self.profile.link(self.mesh.link(single)) for single in axis.split("+")]
            found = Link(*(pick(getattr(link, name) for link in links) for name, pick in _SLOWEST.items()))
            self._link_of[axis] = found
        return found

    def operator(self, node: Node, strategy: Strategy) -> float:
        """The time of one operator under a strategy, the collectives inside it among it."""
        exchanges = self.exchanges(node, strategy)
        sent = sum(self.exchange_time(*e[:3]) for e in exchanges)
        return self._checked(sent + self.compute_time(self.work(node, strategy, 2 if exchanges else 1)), node.op)

    def compute_time(self, work: Work) -> float:
        """The time of an operator without what it sends: the larger of its arithmetic and its memory traffic, and the start of its kernel.

        Vector units do what is pointwise. While a kernel gets going, for `Profile.ramp` at most, half as much moves.
        """
        profile = self.profile
        rate = profile.vector_rate if work.kind == "pointwise" else profile.rate(work.dtype)
        moving = work.bytes / profile.reached_bandwidth
        moving += min(moving, work.launches * profile.ramp)
        return max(0.0 if work.kind == "view" else work.flops / rate, moving) + work.launches * profile.kernel_latency

    def masking(self, value: Value, sharding: Sharding) -> tuple[int, float]:
        """The bytes of a copy in which padding is cleared, and the time of the kernel that writes it."""
        shape, item = self.local_shape(self.shape(value), sharding), self.item_bytes(value)
        points = math.prod(shape)
        work = Work("pointwise", float(points), 2 * points * item, value.dtype, (shape, shape))
        return points * item, self._checked(self.compute_time(work), f"clearing padding of {value.name!r}")

    def _checked(self, seconds: float, what: str) -> float:
        if 0 <= seconds < INFEASIBLE:
            return seconds
        raise self._wrong(seconds, what)

    def _wrong(self, seconds: float, what: str) -> ShardingError:
        way_out = "compute_time and exchange_time give seconds, 0 or more; 1000 of them keep the planner from what it can avoid."
        return ShardingError(f"cost {type(self).__name__}", f"{what} takes {seconds!r} seconds", way_out)


CostFactory = Callable[[Mesh, Profile, Mapping[str, int] | None, float | None], Cost]
"""``Cost`` or a subclass of it: what makes the cost of one plan, from mesh, profile, sizes and memory."""
