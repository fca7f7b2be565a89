"""What a solution of the search decides, in the terms of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spmd.ir.trees import leaves
from spmd.placement.sharding import Sharding
from spmd.program.graph import Function
from spmd.realize.write import Decided

from .problem import Problem


def decided_by(problem: Problem, choice: Mapping[int, int]) -> Decided:
    """The decision that a choice for each variable of the problem is."""

    def returned(function: Function) -> Sequence[tuple[Sharding | None, str]]:
        if not function.at_end:  # nobody asks for anything
            return [(None, "")] * len(leaves(function.result or ()))
        return [(None if wanted is None else problem.at_end(v, wanted, choice), why) for v, wanted, why in function.at_end]

    kept = {value: problem.sharding(value, choice) for value in problem.values}
    return Decided(problem.cost.mesh, kept, lambda node: problem.strategy(node, choice), returned)
