"""What is known to be zero in the padding of shards, and what an operator needs masked: a sum must not take in what stands there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Split
from spmd.program.graph import PASSING, Node
from spmd.rules.model import Rule, Spec
from spmd.rules.strategy import Strategy


def masked(node: Node, strategy: Strategy, zero: Sequence[bool], mesh: Mesh) -> list[int]:
    """The inputs of an operator whose padding must change nothing in its reduction, and may not be so; `zero` says where it is zero."""
    rule, splits = node.rule, dict(strategy.splits)
    if node.op == "argument":  # loops take zeros for granted, as every function does
        return [] if zero[0] else [0]
    padded = {f for f in rule.reduced if f in splits and splits[f].is_padded(mesh)}
    if not padded or any(f in rule.forms for f in splits):
        return []
    return [
        i
        for i, (spec, value) in enumerate(zip(rule.inputs, node.inputs, strict=True))
        if value.is_tensor and not (zero[i] and rule.reduce == "sum") and _holds(spec, padded)
    ]


def gives_zeros(node: Node, strategy: Strategy, zero: Sequence[bool], mesh: Mesh) -> bool:
    """Whether the padding of what an operator makes is zero, where `zero` says so of its inputs."""
    rule, splits = node.rule, dict(strategy.splits)
    if node.op == "relax.spmd.hint" or node.op in PASSING or node.joined is not None:
        return zero[0]
    if isinstance(node.binding, relax.MatchCast):
        return len(node.inputs) == len(node.outputs) == 1 and zero[0]
    if not isinstance(node.binding.value, tvm.ir.Call):
        return False
    if any(f in rule.forms for f in splits):
        return bool(node.writes) and len(node.writes) == len(node.outputs) and all(zero[i] for i in node.writes)
    needed = _needed(rule, splits, mesh)
    return needed is not None and all(zero[i] for i in needed)


def _needed(rule: Rule, splits: Mapping[str, Split], mesh: Mesh) -> list[int] | None:
    """The inputs whose padding must be zero for that of the result to be; None where it is not even then."""
    if not rule.zero:
        return None
    found: list[int] = []
    for f, split in splits.items():
        if not split.is_padded(mesh) or f in rule.reduced:
            continue
        holding = [i for i, spec in enumerate(rule.inputs) if _holds(spec, {f})]
        # A product too asks for all of them: what else is there may be infinite, and zero times that is NaN.
        if not holding or len(holding) < len(rule.inputs) - len(rule.pointers):
            return None
        found += holding
    return found


def _holds(spec: Spec, factors: set[str]) -> bool:
    return any(f in factors for dim in spec for piece in dim for f in piece)
