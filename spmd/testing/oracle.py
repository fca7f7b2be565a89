"""The oracle: runs every strategy of an operator's rule on split random data against the whole, and says which are right.

It is how a rule is proven; `missing.find_missing` looks for what a rule does not say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tvm

from spmd import checks
from spmd.checks import door
from spmd.costs.cost import Cost
from spmd.costs.profile import profile_of
from spmd.errors import ShardingError
from spmd.ir.builder import Builder
from spmd.ir.expressions import variables
from spmd.ir.trees import leaves, map_tree
from spmd.lower.calls import CallLowering
from spmd.lower.function import FunctionLowering
from spmd.placement.layout import Array, cut
from spmd.placement.length import Length
from spmd.placement.mesh import Mesh, MeshLike
from spmd.placement.sharding import Segment, Sharding, Split
from spmd.plan.decisions import Leaf, LeafTree, Signature
from spmd.plan.model import Plan
from spmd.program.build import build_graph
from spmd.program.graph import Function, Graph, Node, Value
from spmd.program.storage import loses_writes
from spmd.propagate.axes_together import find_candidates
from spmd.realize.write import Decided, End, realize
from spmd.rules.strategy import Strategy, complete, partial_strategy, splits_from, strategy_of
from spmd.run.arguments import Handle
from spmd.run.workers import Workers, workers
from spmd.transfers.conversion import moves_through

from .alone import operators_alone
from .equivalence import difference, random_arguments
from .special import exact_terms, signs_of_zeros_differ, sprinkled_arguments

Arguments = Mapping[str, Sequence[Any]]
"""Function -> its arguments; functions that are not there get random ones."""


@dataclass(frozen=True)
class Verdict:
    """What the oracle says of one strategy of the operator in `function`."""

    function: str
    op: str
    inputs: tuple[str, ...]
    """The sharding of each input, as text."""
    outputs: tuple[str, ...]
    status: str
    """"right", "wrong" (another number), "error" (it cannot be lowered or run), "missing" (right, and not in the rule) or "untried" (an
    operator that takes what is no tensor)."""
    detail: str = ""

    def __str__(self) -> str:
        return (
            f"{self.status}: {self.op} in {self.function!r}: {', '.join(self.inputs)} -> {', '.join(self.outputs)} {self.detail}".rstrip()
        )


@dataclass(frozen=True)
class Program:
    """A per-worker module with its signatures, as `workers` reads it."""

    mod: tvm.IRModule
    plan: Plan

    @property
    def mesh(self) -> Mesh:
        """The mesh of the plan."""
        return self.plan.mesh


ORACLE: Mapping[str, checks.Check] = {
    "mod": checks.module,
    "mesh": Mesh.taken,
    "arguments": checks.maybe(checks.mapping("functions to their arguments", "arguments={'main': [x, w]}", checks.listed)),
    "seed": checks.whole(0),
    "tolerance": checks.maybe(checks.number()),
    "most": checks.maybe(checks.whole(1)),
}
"""What the oracle is given."""


@door(**ORACLE)
def prove(
    mod: tvm.IRModule,
    mesh: MeshLike,
    *,
    arguments: Arguments | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    most: int | None = None,
    special: Literal["", "infinite", "all"] = "",
    sizes: Mapping[str, int] | None = None,
    divisible: Mapping[str, int] | None = None,
) -> list[Verdict]:
    """Try every strategy of the rule of each operator of `mod`.

    A function of several operators is taken apart: each is tried alone, as a function ``main_lv3`` of what it takes (see `alone`).
    Inputs that a strategy takes as partial sums are split adversarially: unequal terms of both signs. All strategies of all functions
    are compiled as one module. Returns a verdict for each. On a mesh of several axes there are many: `most` takes some from all over.

    With `special` there are infinities, zeros of both signs and denormal numbers among the floats ("infinite"), and NaN too ("all"):
    partial sums are then those of look-ups, and the signs of zeros must be the same.
    """
    mod, untried = operators_alone(mod)
    graph, mesh = build_graph(mod, divisible), Mesh.of(mesh)
    cost = Cost(mesh, profile_of("generic"), sizes)
    trials: dict[str, tuple[Function, Strategy]] = {}
    for f in graph.functions.values():
        strategies = _some(strategies_of(graph, operator_of(f), mesh), most)
        trials.update({f"{f.name}__{i}": (f, s) for i, s in enumerate(strategies)})
    failed: dict[str, str] = {}
    program = lowered(graph, trials, mesh, failed)
    verdicts: list[Verdict] = []
    with workers(mod) as one, workers(program) as many:
        given = {f: list((arguments or {}).get(f) or random_arguments(one.signatures[f].params, f, seed, sizes)) for f in graph.functions}
        if special:
            given = {f: sprinkled_arguments(values, seed, nan=special == "all") for f, values in given.items()}
        expected = {f: one[f](*given[f]) for f in graph.functions}
        for name, (function, strategy) in trials.items():
            status, detail = "error", failed.get(name, "")
            if name not in failed:
                try:
                    found = many[name](*_shards(many, program.plan.functions[name], given[function.name], seed, exact=bool(special)))
                    detail = difference(expected[function.name], found, tolerance) or _unplanned(
                        operator_of(function), strategy, cost, many
                    )
                    if special and not detail and signs_of_zeros_differ(expected[function.name], found):
                        detail = "zeros have other signs"
                    status = "wrong" if detail else "right"
                except Exception as error:
                    detail = f"{type(error).__name__}: {error}"
            verdicts.append(_verdict(operator_of(function), strategy, status, detail))
    return verdicts + [Verdict("", what, (), (), "untried", why) for what, why in untried.items()]


def _unplanned(node: Node, strategy: Strategy, cost: Cost, ran: Workers) -> str:
    """How the collectives inside the operator differ from those that its rule foretells; empty where they are the same to the byte."""
    planned = Counter((s.kind, s.axis, s.bytes) for s in cost.exchanges(node, strategy))
    traced = Counter((r.kind, r.axis, r.bytes) for r in ran.trace())
    if planned == traced:
        return ""
    extra, lacking = sorted((traced - planned).elements()), sorted((planned - traced).elements())
    return f"collectives that the rule does not foretell: {extra}, foretold in vain: {lacking}"


def operator_of(function: Function) -> Node:
    """The only operator of a function."""
    if len(function.nodes) != 1:
        what = f"it has {len(function.nodes)} operators, and the oracle takes functions of one"
        raise ShardingError(f"function {function.name!r}", what, "Take it apart by spmd.testing.alone.")
    return function.nodes[0]


def strategies_of(graph: Graph, node: Node, mesh: Mesh) -> list[Strategy]:
    """What the rule offers: every factor split, two unequal segments, partial sums let through; where sizes are symbolic, patterns too,
    and parts of the axis.
    """
    axis = next(iter(mesh.axes))
    told = {d for v in leaves(tuple(graph.functions[node.function].params)) if v not in node.inputs for d in v.dims}
    found = dict.fromkeys(find_candidates(replace(graph, functions={node.function: graph.functions[node.function]}), mesh).strategies[node])
    for is_output, specs, values in ((False, node.rule.inputs, node.inputs), (True, node.rule.outputs, node.outputs)):
        for spec, value in zip(specs, values, strict=True):
            for dim, split in _wishes(value, axis, mesh, is_output, told):
                wish = Sharding(tuple(split if d == dim else None for d in range(len(value.shape)))).normalized(mesh)
                splits = splits_from(spec, wish, node.rule, mesh)
                strategy = strategy_of(node.rule, complete(node.rule, splits, mesh), mesh) if splits else None
                if strategy is not None:
                    found[strategy] = None
    for terms in node.rule.linear:
        found[partial_strategy(node.rule, terms, (axis,), mesh)] = None
    return [s for s in found if not loses_writes(node, s, mesh)]


def _wishes(value: Value, axis: str, mesh: Mesh, is_output: bool, told: Collection[Any]) -> Iterator[tuple[int, Split]]:
    """Dimensions of a value with splits that a rule does not think of by itself; units only of sizes that are `told` to each worker."""
    workers = mesh.axes[axis]
    for dim, size in enumerate(value.shape if value.is_tensor else ()):
        if size is not None and size >= 5 and not is_output:
            yield dim, Split((axis,), (Segment(size // 2 + 1), Segment(size - size // 2 - 1)))
        if None not in value.shape:
            continue
        axes = [axis, *([f"{axis}(1)2", f"{axis}(2){workers // 2}"] if workers > 2 and workers % 2 == 0 else [])]
        count = size if size is not None else value.blocks[dim]
        for name in axes:
            yield dim, Split((name,), (Segment(count),), symbolic=size is None)
            if size is None and all(symbol in told for symbol in variables(value.dims[dim])):
                yield dim, Split.in_units((name,), Length())
            if size is None and count > 1:
                yield dim, Split((name,), (Segment(count),), repeated=True)
                yield dim, Split((name,), (Segment(count - count // 3), Segment(count // 3 or 1)), repeated=True)


def _some(strategies: list[Strategy], most: int | None) -> list[Strategy]:
    """Some of the strategies, `most` at most, from all over, the last one included: there all axes are used."""
    if most is None or len(strategies) <= most:
        return strategies
    return [strategies[round((i + 1) * len(strategies) / most) - 1] for i in range(most)]


def lowered(graph: Graph, trials: Mapping[str, tuple[Function, Strategy]], mesh: Mesh, failed: dict[str, str]) -> Program:
    """One module with a function for each trial; those that cannot be lowered are put into `failed`."""
    while True:
        builder = Builder()
        calls = CallLowering(graph, builder, mesh)
        signatures: dict[str, Signature] = {}
        for name, (function, strategy) in trials.items():
            if name in failed:
                continue
            plan = _plan(name, function, strategy, mesh)
            try:
                FunctionLowering(builder, replace(function, name=name), graph.module[function.name], plan, calls).run()
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
                break
            signatures.update(plan.functions)
        else:
            return Program(builder.finalize(), empty_plan(mesh, signatures))


def _plan(name: str, function: Function, strategy: Strategy, mesh: Mesh) -> Plan:
    node = operator_of(function)
    kept: dict[Value, Sharding] = {}
    for value, sharding in zip((*node.inputs, *node.outputs), (*strategy.inputs, *strategy.outputs), strict=True):
        # Every worker has all of a constant, and cuts out what is its own.
        kept.setdefault(value, Sharding.replicated(len(value.shape)) if value.role == "constant" else sharding)

    def leaf(value: Value) -> Leaf:
        shape = tuple(s if s is not None else str(d) for s, d in zip(value.shape, value.dims, strict=True)) if value.is_tensor else None
        return Leaf(value.name, shape, value.dtype, kept.get(value, Sharding.replicated(len(value.shape))) if value.is_tensor else None)

    params: tuple[LeafTree, ...] = tuple(map_tree(p, leaf) for p in function.params)
    outputs: LeafTree = map_tree(function.result, leaf) if function.result is not None else ()
    plan = empty_plan(mesh, {name: Signature(params, outputs, None)})
    for value in leaves(tuple(function.params)):  # what the operator does not take
        kept.setdefault(value, Sharding.replicated(len(value.shape)))
    plan.values = {f"{v.function}.{v.name}": s for v, s in kept.items()}
    plan.params = {v.name: s for v, s in kept.items()}
    ends = [End()] * len(leaves(function.result or ()))
    decided = Decided(mesh, kept, lambda _: strategy, lambda _: ends, lambda _, source, target, __: moves_through((source, target), mesh))
    plan.steps = {name: realize(function, decided)}
    return plan


def empty_plan(mesh: Mesh, signatures: dict[str, Signature]) -> Plan:
    """A plan that holds signatures alone."""
    return Plan(mesh, {}, {}, {}, {}, signatures, {}, {}, {}, "none", 0)


def _shards(w: Workers, signature: Signature, given: Sequence[Any], seed: int, *, exact: bool) -> list[Any]:
    """Arguments, with a handle of unequal terms for each that is partial, or of the parts of a look-up."""
    split = exact_terms if exact else _terms

    def place(tree: LeafTree, value: Any) -> Any:
        if not isinstance(tree, Leaf):
            return tuple(place(t, v) for t, v in zip(tree, value, strict=True))
        if tree.sharding is None or not tree.sharding.partial:
            return value
        axes = tuple(axis for axis, _ in tree.sharding.partial)
        terms = split(np.asarray(value), w.mesh.axis_size(*axes), seed)
        placed = Sharding(tree.sharding.dims)
        shards = [cut(terms[w.mesh.index(rank, axes)], placed, w.mesh, rank) for rank in range(w.mesh.size)]
        return Handle(tuple(map(tvm.runtime.tensor, shards)), w.backend, tree, np.asarray(value).shape)

    return [place(tree, value) for tree, value in zip(signature.params, given, strict=True)]


def _terms(array: Array, workers: int, seed: int) -> list[Array]:
    """Unequal arrays of both signs that add up to `array`."""
    rng = np.random.default_rng(seed)
    if array.dtype.kind == "b":  # of which a sum is "or"
        parts = [array & (rng.random(array.shape) < 0.5) for _ in range(workers - 1)]
        return [*parts, array & ~np.logical_or.reduce(parts)]
    if array.dtype.itemsize <= 2 and array.dtype.kind not in "iu":  # powers of two times the array: their sum is exact
        factors = rng.permuted(np.broadcast_to(_factors(workers), (*array.shape, workers)), axis=-1)
        return [(array.astype("float32") * factors[..., i]).astype(array.dtype) for i in range(workers)]
    parts = [
        (rng.integers(-3, 4, array.shape) if array.dtype.kind in "iu" else rng.normal(0, 2, array.shape)).astype(array.dtype)
        for _ in range(workers - 1)
    ]
    return [*parts, (array - sum(parts, np.zeros_like(array))).astype(array.dtype)]


def _factors(workers: int) -> Array:
    """Powers of two of both signs whose sum is 1: 2 - 1, 4 - 2 - 1, 8 - 4 - 2 - 1."""
    powers = 2.0 ** np.arange(workers)
    return np.append(-powers[:-1], powers[-1]).astype("float32")


def _verdict(node: Node, strategy: Strategy, status: str, detail: str) -> Verdict:
    return Verdict(node.function, node.op, tuple(map(str, strategy.inputs)), tuple(map(str, strategy.outputs)), status, detail)
