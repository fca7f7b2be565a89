"""State that a function takes and gives again, such as the weights of a training step: the new is placed as the old."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import tvm

from spmd import checks
from spmd.checks import door
from spmd.ir.trees import leaves
from spmd.placement.spec import Same
from spmd.program.graph import Node, Value

from .reading import Reading


@door(mod=checks.module, donate=checks.flag)
def state(mod: tvm.IRModule, *, donate: bool = False) -> dict[str, Same]:
    """Every result that replaces a weight is placed as that weight: a loop moves nothing between two calls.

    A result replaces the weight of its shape and dtype that it is made from element by element, by the fewest operators: ``w - lr * g``
    replaces `w`. The other presets pair results so where a function replaces all of its weights.

    With `donate`, results take the memory of the weights (see `spmd.same`): ``presets.fsdp(step) | presets.state(step, donate=True)``.
    """
    reading = Reading(mod)
    return {path: Same(weight, donate) for name in reading.graph.functions for path, weight in _replaced(reading, name).items()}


def state_of(reading: Reading) -> dict[str, Same]:
    """The pairs of the functions that replace all of their weights."""
    found: dict[str, Same] = {}
    for name, function in reading.graph.functions.items():
        weights = [v for p in function.params for v in leaves(p) if v.role == "weight"]
        own = weights[: len(weights) - function.constants]
        pairs = _replaced(reading, name)
        if own and set(pairs.values()) == {v.path for v in own}:
            found |= {path: Same(weight) for path, weight in pairs.items()}
    return found


def _replaced(reading: Reading, name: str) -> dict[str, str]:
    """Result -> the weight that it replaces, by name; each weight once, by the first of the results that may replace it."""
    function = reading.graph.functions[name]
    makers = {value: (node, i) for node in function.nodes for i, value in enumerate(node.outputs)}
    found: dict[str, str] = {}
    for path, value in reading.results.items():
        if path.partition(".return")[0] == name and (weight := _nearest(value, makers, set(found.values()))) is not None:
            found[path] = weight.path
    return found


def _nearest(value: Value, makers: Mapping[Value, tuple[Node, int]], taken: set[str]) -> Value | None:
    """The weight that a value is made from element by element, by the fewest operators."""
    waiting, seen = deque([value]), {value}
    while waiting:
        one = waiting.popleft()
        if one.role == "weight" and one.dtype == value.dtype and one.path not in taken:
            return one
        node, at = makers.get(one, (None, 0))
        for i, before in enumerate(node.inputs if node is not None else ()):
            assert node is not None
            alike = before.shape == one.shape and node.rule.inputs[i] == node.rule.outputs[at]
            if alike and before not in seen:
                seen.add(before)
                waiting.append(before)
    return None
