"""What each worker does for an operator, and what it sends inside of it: bytes and operations, no times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tvm

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding, Split
from spmd.program.graph import Access, Node, Value
from spmd.rules.strategy import Strategy

from .kv_bytes import CacheBytes, read_bytes
from .planning_sizes import DEFAULT_SIZE, PlanningSizes


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
    """The dtype of the first tensor that it takes; empty where it takes none."""
    shapes: tuple[tuple[int, ...], ...]
    """Local shapes of the tensors that it takes, then of those that it makes."""
    launches: int = 1
    """Kernels that begin with it: 0 for what runs in the kernel of another operator, and for views."""


class Sent(NamedTuple):
    """A collective inside an operator."""

    kind: str
    axis: str
    bytes: int
    """That each worker brings."""
    dtype: str


class Works(PlanningSizes):
    """What the workers of a mesh hold and do at planning sizes."""

    def __init__(self, mesh: Mesh, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__(sizes)
        self.mesh = mesh
        self._items: dict[str, int] = {"": 0}
        self._bytes: dict[tuple[tuple[int, ...], int, Sharding], int] = {}
        self._caches: dict[Node, CacheBytes] = {}
        """Bytes that attention reads of each KV cache, by what makes it."""

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
        return tuple([size if split is None else self.held_size(size, split) for size, split in zip(shape, sharding.dims, strict=True)])

    def held_size(self, size: int, split: Split) -> int:
        """What a worker holds of a dimension of this planning size."""
        unit = 1 if split.length is None else split.length.number
        for name in () if split.length is None else split.length.names:
            unit *= self.sizes.get(name, DEFAULT_SIZE)
        return split.held_size(size, self.mesh, unit)

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

    def work(self, node: Node, strategy: Strategy, kernels: int) -> Work:
        """What a worker does for a node, in so many kernels with a collective between them, each of which reads what it takes.

        Of what is fused these are the bytes that lie in memory, in proportion to what is taken of it.
        """
        rule, points = node.rule, self._points(node, dict(strategy.splits))
        access = node.access or Access(tuple([(v,) for v in node.inputs]), (True,) * len(node.outputs), int(rule.work != "view"))
        shapes: list[tuple[int, ...]] = []
        read = written = 0
        for i, (value, sharding) in enumerate(zip((*node.inputs, *node.outputs), (*strategy.inputs, *strategy.outputs), strict=True)):
            is_input = i < len(node.inputs)
            if not value.is_tensor:
                read += self._cached(access.cache).local(sharding, self.mesh) if is_input and access.cache is not None else 0
                continue
            shapes.append(self.local_shape(self.shape(value), sharding))
            held = math.prod(shapes[-1])
            touched = min(held, points) if i in rule.sparse else held
            if is_input:
                read += self._bytes_of(access.reads[i], value, touched)
            elif access.writes[i - len(node.inputs)]:
                written += touched * self.item_bytes(value)
        each = 2 if rule.reduced and not rule.sparse and rule.work != "pointwise" else 1
        dtype = next((v.dtype for v in node.inputs if v.is_tensor), "")
        return Work(rule.work, float(each * points), kernels * read + written, dtype, tuple(shapes), kernels * access.launches)

    def _bytes_of(self, sources: Sequence[Value], value: Value, elements: int) -> int:
        """Bytes read from memory for so many elements of a value that is made of `sources`."""
        if sources == (value,):
            return elements * self.item_bytes(value)
        whole = math.prod(self.shape(value)) or 1
        return -(-elements * sum(math.prod(self.shape(v), start=self.item_bytes(v)) for v in sources) // whole)

    def _cached(self, create: Node) -> CacheBytes:
        if create not in self._caches:
            self._caches[create] = read_bytes(create, self)
        return self._caches[create]

    def _points(self, node: Node, splits: Mapping[str, Split]) -> int:
        """The size of the local iteration space: of all loop nests together."""
        rule, sizes = node.rule, self.of_factors(node)
        left_out = rule.uncounted | (rule.reduced if rule.sparse and rule.nests is None else frozenset())
        nests = (rule.factors,) if rule.nests is None else rule.nests
        return sum(math.prod(self._local_factor(f, sizes, splits) for f in nest if f not in left_out) for nest in nests)

    def _local_factor(self, factor: str, sizes: Mapping[str, int], splits: Mapping[str, Split]) -> int:
        """What a worker holds of a factor."""
        size = sizes.get(factor, 1)
        return self.held_size(size, splits[factor]) if factor in splits else size
