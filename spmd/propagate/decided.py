"""What a solution of the search decides, in the terms of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spmd.ir.trees import leaves
from spmd.placement.sharding import Sharding
from spmd.program.graph import Function, Value
from spmd.realize.write import Decided, End
from spmd.transfers.conversion import Move

from .problem import Problem


def decided_by(problem: Problem, choice: Mapping[int, int]) -> Decided:
    """The decision that a choice for each variable of the problem is."""

    def returned(function: Function) -> Sequence[End]:
        if not function.at_end:  # nobody asks for anything
            return [End()] * len(leaves(function.result or ()))
        return [
            End() if wanted is None else End(problem.at_end(v, wanted, choice), why, getattr(wanted, "gather", True))
            for v, wanted, why in function.at_end
        ]

    def ways(value: Value, source: Sharding, target: Sharding, gather: bool) -> Sequence[Move] | None:
        return problem.cost.steps(value, source, target, gather)

    kept = {value: problem.sharding(value, choice) for value in problem.values}
    runs = {node: problem.strategy(node, choice) for function in problem.graph.functions.values() for node in function.nodes}
    return Decided(problem.cost.mesh, kept, runs.__getitem__, returned, ways)
