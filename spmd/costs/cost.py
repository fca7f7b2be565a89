"""Predicted times: roofline for operators, bytes and latency for conversions. Seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import tvm

from spmd import checks
from spmd.checks import door, told
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.program.graph import Node, Value
from spmd.rules.strategy import Strategy
from spmd.transfers.conversion import Step, conversion, moved_split

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
        self._conversions: dict[tuple[Any, ...], float] = {}
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
        into = step.to_dim if step.kind == "all_to_all" else step.dim if step.kind == "reduce_scatter" else -1
        return self.local_bytes(shape, item, step.source) if into < 0 else self._padded_bytes(step, into, shape, item)

    def _padded_bytes(self, step: Step, into: int, shape: tuple[int, ...], item: int) -> int:
        """What a worker holds before a step that cuts dimension `into`, with the padding that this takes."""
        held, split = self.local_bytes(shape, item, step.source), moved_split(step, into, self.mesh)
        return held * split.local_size(self.mesh) * self.mesh.axis_size(step.axis) // split.size if shape[into] else held

    def convert(self, shape: tuple[int, ...], item: int, source: Sharding, target: Sharding) -> float:
        """The time to take a tensor of the planning `shape` from one sharding to another."""
        if source == target:
            return 0.0
        key = (shape, item, source, target)
        if key not in self._conversions:
            self._conversions[key] = self._convert(shape, item, source, target)
        return self._conversions[key]

    def _convert(self, shape: tuple[int, ...], item: int, source: Sharding, target: Sharding) -> float:
        if not item:  # an object cannot be moved
            return 0.0 if source.is_replicated and target.is_replicated else INFEASIBLE
        steps = conversion(source, target, self.mesh)
        if steps is None:
            return INFEASIBLE
        return self._checked(sum(self.step_time(s, shape, item) for s in steps), f"{source} -> {target}")

    def step_time(self, step: Step, shape: tuple[int, ...], item: int) -> float:
        """Ring algorithms: what each worker sends, over the link; and the traffic of putting elements in order before and after it."""
        return sum(self.step_times(step, shape, item))

    def step_times(self, step: Step, shape: tuple[int, ...], item: int) -> tuple[float, float, float]:
        """The parts of `step_time`: putting elements in order before the step, the step itself, putting them in order after it."""
        held = self.step_bytes(step, shape, item)
        workers, bandwidth = self.mesh.axis_size(step.axis), self.profile.memory_bandwidth
        if step.kind == "slice" or workers == 1:
            moved = _SLICE + held / workers / bandwidth
        else:
            moved = self.exchange_time(step.kind, step.axis, held)
        return self._pack_bytes(step, shape, item) / bandwidth, moved, self._unpack_bytes(step, shape, item) / bandwidth

    def reorder_bytes(self, step: Step, shape: tuple[int, ...], item: int) -> int:
        """Bytes that a worker reads and writes to put a dimension in the order of shards, padded, or back in its own."""
        return self._pack_bytes(step, shape, item) + self._unpack_bytes(step, shape, item)

    def _pack_bytes(self, step: Step, shape: tuple[int, ...], item: int) -> int:
        into = step.to_dim if step.kind == "all_to_all" else step.dim
        if step.kind in ("slice", "reduce_scatter", "all_to_all") and self._is_reordered(step, into):
            return self.local_bytes(shape, item, step.source) + self._padded_bytes(step, into, shape, item)
        return 0

    def _unpack_bytes(self, step: Step, shape: tuple[int, ...], item: int) -> int:
        if step.kind in ("all_gather", "all_to_all") and self._is_reordered(step, step.dim):
            return 2 * self.local_bytes(shape, item, step.target)
        return 0

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
        way_out = "compute_time and exchange_time give seconds, 0 or more; 1000 of them keep the planner from what it can avoid."
        raise ShardingError(f"cost {type(self).__name__}", f"{what} takes {seconds!r} seconds", way_out)

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
