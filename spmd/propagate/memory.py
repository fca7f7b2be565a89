"""What a worker holds under a plan: weights, KV caches, and activations from when they are made until they are last read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from tvm import tirx

from spmd.costs.kv_bytes import CacheBytes, create_bytes
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Memory
from spmd.plan.steps import Step
from spmd.program.graph import Value
from spmd.realize.prices import MovePrices
from spmd.realize.timeline import RESIDENT, Timeline
from spmd.realize.write import Decided, realize

from .decided import decided_by
from .problem import Problem


class Usage:
    """The memory of a worker under a solution. Weights and caches of all functions stay; activations are those of the one that runs."""

    def __init__(
        self,
        problem: Problem,
        choice: Mapping[int, int],
        decided: Decided | None = None,
        steps: Mapping[str, Sequence[Step]] | None = None,
    ) -> None:
        """`decided` is what the choice decides, and `steps` are those of each function, where they are known."""
        self.problem, self._steps = problem, steps
        self._decided = decided or decided_by(problem, choice)
        self.caches, self.unknown = cache_sizes(problem)
        kept = self._decided.kept
        self.residents = {
            v: resident_bytes(problem, v, kept[v], self.caches)
            for v in problem.values
            if v in self.caches or (v.is_tensor and v.role in RESIDENT)
        }

    @cached_property
    def timelines(self) -> dict[str, Timeline]:
        """The activations of each function."""
        cost, functions = self.problem.cost, self.problem.graph.functions
        prices = MovePrices(cost)
        steps = self._steps or {name: realize(function, self._decided, prices) for name, function in functions.items()}
        loops: dict[str, int] = {}
        found: dict[str, Timeline] = {}
        for name, function in sorted(functions.items(), key=lambda item: not item[1].is_loop):
            found[name] = Timeline(cost, function, steps[name], self._decided.kept, loops)
            if function.is_loop:
                loops[name] = found[name].peak
        return {name: found[name] for name in functions}

    @cached_property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(n for v, n in self.residents.items() if v.is_tensor)

    @cached_property
    def assumed(self) -> tuple[str, ...]:
        """The symbolic sizes of weights that nobody gave."""
        dims = [dim for v in self.residents if v.is_tensor for dim in v.dims if not isinstance(dim, int)]
        names = [var.name for dim in dims for var in tirx.analysis.undefined_vars(dim)]
        return tuple(dict.fromkeys(name for name in names if name not in self.problem.cost.sizes))

    @cached_property
    def cache(self) -> int:
        """Bytes of the KV caches whose size is known."""
        return sum(n for v, n in self.residents.items() if not v.is_tensor)

    @cached_property
    def worst(self) -> str:
        """The function that holds the most."""
        return max(self.timelines, key=lambda name: self.timelines[name].peak, default="")

    @property
    def peak(self) -> int:
        """The most bytes in any function."""
        return self.weights + self.cache + (self.timelines[self.worst].peak if self.worst else 0)

    def of(self, function: str) -> Memory:
        """What is held while a function runs."""
        unknown = tuple(v.name for v in self.unknown)
        return Memory(self.weights, self.cache, self.timelines[function].peak, unknown, self.assumed)


def resident_bytes(problem: Problem, value: Value, sharding: Sharding, caches: Mapping[Value, CacheBytes]) -> int:
    """The bytes that a worker holds of a weight or a cache."""
    cost = problem.cost
    if value.is_tensor:
        return cost.local_bytes(cost.shape(value), cost.item_bytes(value), sharding)
    return caches[value].local(sharding, cost.mesh)


def cache_sizes(problem: Problem) -> tuple[dict[Value, CacheBytes], list[Value]]:
    """The bytes of each whole KV cache, the largest where several calls make it; and the objects of which they are not known."""
    found: dict[Value, CacheBytes] = {}
    for function in problem.graph.functions.values():
        for node in function.nodes:
            if node.outputs and not node.outputs[0].is_tensor:
                size = create_bytes(node, problem.cost)
                if size is not None:
                    found[node.outputs[0]] = max(size, found.get(node.outputs[0], size), key=sum)
    return found, [v for v in problem.values if v.kind == "object" and v not in found]
