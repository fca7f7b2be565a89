"""Predicted times: roofline for operators, bytes and latency for conversions. Seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tvm

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.program.graph import Node, Value
from spmd.rules.strategy import Strategy
from spmd.transfers.conversion import Step, moved_split
from spmd.transfers.graph import Floats
from spmd.transfers.transfers import Transfers

from .planning_sizes import PlanningSizes
from .profile import Link, Profile, profile_taken

INFEASIBLE = 1e9
"""The cost of what cannot be done; finite, so that sums stay comparable."""
_VECTOR = 16
"""How much faster matrix units are than the vector units that run pointwise operators."""
_SLICE = 1e-9
"""A slice sends nothing; it costs just enough not to be made for nothing."""


@dataclass(frozen=True)
class Work:
    """What a worker does for one operator, without what it sends: all that the operator's time may depend on."""

    kind: str
    """`Rule.work`: "full", "pointwise", "view", or a name of your own that your rule gives it."""
    flops: float
    """Operations; a multiply-add counts two."""
    bytes: int
    """Read and written."""
    dtype: str
    """Of the first tensor that it takes; empty where it takes none."""
    shapes: tuple[tuple[int, ...], ...]
    """Local shapes of the tensors that it takes, then of those that it makes."""


class Sent(NamedTuple):
    """A collective inside an operator."""

    kind: str
    axis: str
    bytes: int
    """That each worker brings."""
    dtype: str


class Cost(PlanningSizes):
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
        super().__init__(sizes)
        self.mesh, self.profile = mesh, profile
        self.memory = profile.memory if memory is None else memory
        """Bytes that a worker may hold; None is no limit."""
        self.has_own_budget = memory is not None
        """Whether that is asked for, and not just what the profile has."""
        self._link_of: dict[str, Link] = {}
        self._items: dict[str, int] = {"": 0}
        self._bytes: dict[tuple[tuple[int, ...], int, Sharding], int] = {}
        self.transfers = Transfers(mesh, self.move_time)
        self._no_time: float | None = None
        """What `exchange_time` gave that is no time: a way that needs it is an error."""
        for axis in mesh.axes:  # what the profile lacks is an error before anything is planned
            self.link(axis)

    @property
    def name(self) -> str:
        """What the times come from: the profile, and the class where it is not this one."""
        return self.profile.name if type(self) is Cost else f"{self.profile.name} ({type(self).__name__})"

    def item_bytes(self, value: Value) -> int:
        """Bytes of one element (sub-byte types round up)."""
        return self._item_bytes(value.dtype)

    def _item_bytes(self, dtype: str) -> int:
        if dtype not in self._items:
            self._items[dtype] = (tvm.DataType(dtype).bits + 7) // 8
        return self._items[dtype]

    def local_bytes(self, shape: tuple[int, ...], item: int, sharding: Sharding) -> int:
        """Bytes that a worker holds of a tensor in `sharding`."""
        key = (shape, item, sharding)
        found = self._bytes.get(key)
        if found is None:
            found = self._bytes[key] = math.prod(self.local_shape(shape, sharding), start=item)
        return found

    def local_shape(self, shape: tuple[int, ...], sharding: Sharding) -> tuple[int, ...]:
        """What a worker holds of a tensor of the planning `shape`."""
        mesh = self.mesh
        return tuple([size if split is None else split.held_size(size, mesh) for size, split in zip(shape, sharding.dims, strict=True)])

    def step_bytes(self, step: Step, shape: tuple[int, ...], item: int) -> int:
        """Bytes of the tensor that each worker brings to a collective; what is scattered is padded first."""
        held = self.local_bytes(shape, item, step.source)
        return held if step.into < 0 else self._padded_bytes(step, step.into, shape, item)

    def _padded_bytes(self, step: Step, into: int, shape: tuple[int, ...], item: int) -> int:
        """What a worker holds before a step that cuts dimension `into`, with the padding that this takes."""
        held, split = self.local_bytes(shape, item, step.source), moved_split(step, into, self.mesh)
        return held * split.local_size(self.mesh) * self.mesh.axis_size(step.axis) // split.size if shape[into] else held

    def convert(self, shape: tuple[int, ...], item: int, source: Sharding, target: Sharding, gather: bool = True) -> float:
        """The time to take a tensor of the planning `shape` from one sharding to another."""
        return 0.0 if source == target else float(self.conversions(shape, item, (source,), (target,), gather)[0, 0])

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

    def steps(self, value: Value, source: Sharding, target: Sharding, gather: bool = True) -> tuple[Step, ...] | None:
        """The moves that take a value from one sharding to another the fastest, or None where there is no way.

        None of them gathers where `gather` or what is asked of the value forbids that.
        """
        gather = gather and (value.wanted is None or value.wanted.gather)
        return self.transfers.steps(self.shape(value), self.item_bytes(value), source, target, gather=gather)

    def step_time(self, step: Step, shape: tuple[int, ...], item: int) -> float:
        """The time of one move of a tensor of the planning `shape`."""
        return self.move_time(step.kind, step.axis, self.step_bytes(step, shape, item), self.reorder_bytes(step, shape, item))

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

    def reorder_bytes(self, step: Step, shape: tuple[int, ...], item: int) -> int:
        """Bytes that a worker reads and writes to put a dimension in the order of shards, padded, or back in its own."""
        total = 0
        if step.into >= 0 and self._is_reordered(step, step.into):
            total += self.local_bytes(shape, item, step.source) + self._padded_bytes(step, step.into, shape, item)
        if step.off >= 0 and self._is_reordered(step, step.off):
            total += 2 * self.local_bytes(shape, item, step.target)
        return total

    def _is_reordered(self, step: Step, dim: int) -> bool:
        split = moved_split(step, dim, self.mesh)
        return not split.symbolic and (len(split.segments) > 1 or split.is_padded(self.mesh))

    def exchanges(self, node: Node, strategy: Strategy) -> list[Sent]:
        """Every collective inside an operator."""
        splits = dict(strategy.splits)
        found: list[Sent] = []
        for f, split in [(f, s) for f, s in strategy.splits if f in node.rule.forms][:1]:  # what is split together runs as one form
            exchanges, sizes = node.rule.forms[f].exchanges, self.of_factors(node)
            for exchange in exchanges(splits, self.mesh) if callable(exchanges) else exchanges:
                dtype = exchange.dtype or node.inputs[0].dtype
                held = self._item_bytes(dtype)
                for name in exchange.spec.split():
                    held *= int(name) if name.isdigit() else self._local_factor(name, sizes, splits)
                found.append(Sent(exchange.kind, split.axis, held, dtype))
        return found

    def exchange_time(self, kind: str, axis: str, held: int) -> float:
        """The time of one collective to which each worker brings `held` bytes: ring algorithms, over the link of the axis."""
        if not isinstance(kind, str) or not isinstance(held, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ShardingError("Cost.exchange_time", f"it takes a collective and bytes, and got {told(kind)} and {told(held)}")
        workers, link = self.mesh.axis_size(axis), self.link(axis)
        factor = {"all_reduce": 2 * (workers - 1) / workers, "all_gather": workers - 1, "permute": 1, "broadcast": 1}
        return link.latency + held * factor.get(kind, (workers - 1) / workers) / link.bandwidth

    def link(self, axis: str) -> Link:
        """What an axis or a part of one runs over; several joined run as slowly as the slowest of them."""
        found = self._link_of.get(axis) if isinstance(axis, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        if found is None:
            self.mesh.parts(axis)  # there is such an axis
            links = [self.profile.link(self.mesh.link(single)) for single in axis.split("+")]
            found = Link(min(link.bandwidth for link in links), max(link.latency for link in links))
            self._link_of[axis] = found
        return found

    def operator(self, node: Node, strategy: Strategy) -> float:
        """The time of one operator under a strategy, the collectives inside it among it."""
        sent = sum(self.exchange_time(*e[:3]) for e in self.exchanges(node, strategy))
        return self._checked(sent + self.compute_time(self._work(node, strategy)), node.op)

    def compute_time(self, work: Work) -> float:
        """The time of an operator without what it sends. Roofline; views are free, what is pointwise is fused into its neighbours."""
        if work.kind == "view":
            return 0.0
        if work.kind == "pointwise":
            return work.flops / (self.profile.flops / _VECTOR)
        return max(work.flops / self.profile.rate(work.dtype), work.bytes / self.profile.memory_bandwidth) + self.profile.kernel_latency

    def _work(self, node: Node, strategy: Strategy) -> Work:
        rule, moved, points = node.rule, 0, self._points(node, dict(strategy.splits))
        shapes: list[tuple[int, ...]] = []
        for i, (value, sharding) in enumerate(zip((*node.inputs, *node.outputs), (*strategy.inputs, *strategy.outputs), strict=True)):
            if value.is_tensor:
                shapes.append(self.local_shape(self.shape(value), sharding))
                held = math.prod(shapes[-1], start=self.item_bytes(value))
                moved += min(held, points * self.item_bytes(value)) if i in rule.sparse else held
        each = 2 if rule.reduced and not rule.sparse and rule.work != "pointwise" else 1
        return Work(rule.work, float(each * points), moved, next((v.dtype for v in node.inputs if v.is_tensor), ""), tuple(shapes))

    def _checked(self, seconds: float, what: str) -> float:
        if 0 <= seconds < INFEASIBLE:
            return seconds
        raise self._wrong(seconds, what)

    def _wrong(self, seconds: float, what: str) -> ShardingError:
        way_out = "compute_time and exchange_time give seconds, 0 or more; 1000 of them keep the planner from what it can avoid."
        return ShardingError(f"cost {type(self).__name__}", f"{what} takes {seconds!r} seconds", way_out)

    def _points(self, node: Node, splits: Mapping[str, Split]) -> int:
        """The size of the local iteration space: of all loop nests together."""
        rule, sizes = node.rule, self.of_factors(node)
        left_out = rule.uncounted | (rule.reduced if rule.sparse and rule.nests is None else frozenset())
        nests = (rule.factors,) if rule.nests is None else rule.nests
        return sum(math.prod(self._local_factor(f, sizes, splits) for f in nest if f not in left_out) for nest in nests)

    def _local_factor(self, factor: str, sizes: Mapping[str, int], splits: Mapping[str, Split]) -> int:
        """What a worker holds of a factor."""
        size = sizes.get(factor, 1)
        return splits[factor].held_size(size, self.mesh) if factor in splits else size


CostFactory = Callable[[Mesh, Profile, Mapping[str, int] | None, float | None], Cost]
"""``Cost`` or a subclass of it: what makes the cost of one plan, from mesh, profile, sizes and memory."""
