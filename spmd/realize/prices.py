"""What steps take, by the costs of a plan; what is alike is worked out once."""

from __future__ import annotations

from typing import Any

from spmd.costs.cost import Cost
from spmd.placement.sharding import Sharding
from spmd.plan.steps import Exchange
from spmd.program.graph import Node, Value
from spmd.rules.strategy import Strategy
from spmd.transfers.conversion import Move


class CostPrices:
    """Bytes and seconds of steps under a `Cost`."""

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self._computes: dict[tuple[int, int], tuple[float, tuple[Exchange, ...], Strategy]] = {}
        """What is known by class of call and identity of the strategy, which is kept alive."""
        self._moves: dict[tuple[Any, ...], tuple[int, tuple[float, float, float]]] = {}
        self._masks: dict[tuple[Any, ...], tuple[int, float]] = {}

    def compute(self, node: Node, runs: Strategy) -> tuple[float, tuple[Exchange, ...]]:
        """The time of an operator, and the collectives inside it, whose time is a part of its own."""
        key = (node.call_class, id(runs))
        if key not in self._computes:
            cost = self.cost
            sent = tuple(Exchange(*e, seconds=cost.exchange_time(e.kind, e.axis, e.bytes)) for e in cost.exchanges(node, runs))
            self._computes[key] = (cost.operator(node, runs), sent, runs)
        return self._computes[key][:2]

    def move(self, value: Value, move: Move) -> tuple[int, tuple[float, float, float]]:
        """The bytes that each worker brings to a move; the times of packing, of the move itself and of unpacking."""
        shape, item = self.cost.shape(value), self.cost.item_bytes(value)
        key = (shape, item, move)
        if key not in self._moves:
            self._moves[key] = (self.cost.step_bytes(move, shape, item), self.cost.step_times(move, shape, item))
        return self._moves[key]

    def mask(self, value: Value, sharding: Sharding) -> tuple[int, float]:
        """The bytes of a copy of a value whose padding is cleared, and the time to write it."""
        key = (self.cost.shape(value), value.dtype, sharding)
        if key not in self._masks:
            self._masks[key] = self.cost.masking(value, sharding)
        return self._masks[key]

    def latency(self, move: Move) -> float:
        """The part of the time of a transfer that the second of two in one call does not take."""
        return self.cost.latency(move.kind, move.axis)


class MovePrices(CostPrices):
    """What moves take, for who asks for their order alone: operators take nothing."""

    def compute(self, node: Node, runs: Strategy) -> tuple[float, tuple[Exchange, ...]]:
        """Nothing."""
        return 0.0, ()
