"""Placement as an optimum: candidates, the tables over them, the exact solution, and what it means as a `Plan`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..conversion import conversion
from ..graph import Graph, Node, Value, map_tree
from ..plan import Choice, Collective, Leaf, LeafTree, Plan, Signature
from ..sharding import Sharding
from .candidates import find_candidates
from .cost import Cost
from .problem import Problem
from .search import Search, Solution

Held = set[tuple[Value, Sharding]]
"""The shardings in which a function has each value so far."""


def make_plan(graph: Graph, cost: Cost) -> Plan:
    """The `Plan` of least predicted time among all that obey the constraints on the graph's values.

    Raises `ShardingError` when the constraints contradict each other.
    """
    candidates = find_candidates(graph, cost.mesh)
    problem = Problem(graph, candidates, cost)
    solution = Search(problem.sizes, list(problem.groups.values())).run()
    problem.check_feasible(solution.choice, solution.cost)
    return _report(graph, problem, solution)


def _taken(node: Node, value: Value, kept: Sharding, wanted: Sharding) -> str:
    return f"{value.name!r} is kept as {kept}, {node.op} {node.name!r} takes it as {wanted}"


def _made(node: Node, value: Value, made: Sharding, kept: Sharding) -> str:
    return f"{node.op} makes {value.name!r} as {made}, it is kept as {kept}"


def _report(graph: Graph, problem: Problem, solution: Solution) -> Plan:
    """The solution as a `Plan`."""
    cost, candidates = problem.cost, problem.candidates
    chosen = {v: problem.sharding(v, solution.choice) for v in problem.values}
    choices: dict[str, list[Choice]] = {}
    collectives: list[Collective] = []
    predicted: dict[str, float] = {}
    notes: dict[str, None] = {}
    replicated: dict[str, list[str]] = {}
    costs: dict[tuple[int, int], tuple[float, list[tuple[str, str, int]]]] = {}

    def convert(function: str, value: Value, source: Sharding, target: Sharding, reason: Callable[[], str], done: Held) -> None:
        if source == target or not value.is_tensor or (value, target) in done:
            return
        done.add((value, target))
        shape, item = cost.shape(value), cost.item_bytes(value)
        for step in conversion(source, target, cost.mesh) or []:
            predicted[function] += cost.step_time(step, shape, item)
            if step.kind != "slice":
                held = cost.step_bytes(step, shape, item)
                collectives.append(Collective(step.kind, step.axis, held, function, value.name, reason()))

    for name, function in graph.functions.items():
        choices[name], predicted[name] = [], 0.0
        done: Held = set()
        for node in function.nodes:
            strategy = problem.strategy(node, solution.choice)
            alike = (node.call_class, id(strategy))
            if alike not in costs:
                costs[alike] = (cost.operator(node, strategy), cost.exchanges(node, strategy))
            time, exchanges = costs[alike]
            predicted[name] += time
            for kind, axis, held in exchanges:
                collectives.append(Collective(kind, axis, held, name, node.name, f"{node.op} {node.name!r} runs split: {strategy}"))
            for value, sharding in zip(node.inputs, strategy.inputs, strict=True):
                convert(name, value, chosen[value], sharding, partial(_taken, node, value, chosen[value], sharding), done)
            for value, sharding in zip(node.outputs, strategy.outputs, strict=True):
                convert(name, value, sharding, chosen[value], partial(_made, node, value, sharding, chosen[value]), done)
            choices[name].append(
                Choice(node.op, node.name, strategy.splits, strategy.inputs, strategy.outputs, strategy.partial_through, node.no_rule)
            )
            if node.no_rule:
                replicated.setdefault(f"{node.op} is replicated, as {node.no_rule}", []).append(f"{name}: {node.name!r}")
        for value, wanted, why in function.at_end:
            if wanted is not None:
                convert(name, value, chosen[value], wanted, partial("{!r} is kept as {}, {}".format, value.name, chosen[value], why), done)
    for what, where in replicated.items():
        notes[f"{what} ({where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''})"] = None
    notes.update(dict.fromkeys(f"{n}: only the first candidates were considered" for n in candidates.cut_short))
    if cost.mesh.size > 1 and all(not sharding.axes() for sharding in chosen.values()):
        way_out = "pass specs, or the profile of your hardware"
        notes[f"nothing is split: under profile {cost.profile.name!r} that would cost more time than it saves; {way_out}"] = None
    if solution.gap:
        notes[f"the plan is within {solution.gap:.2%} of the optimum, which was not reached"] = None
    if solution.conditioned:
        notes[f"the plan may not be the optimum: {solution.conditioned} variables were fixed before the search"] = None

    def leaf(value: Value) -> Leaf:
        shape = tuple(s if s is not None else str(d) for s, d in zip(value.shape, value.dims, strict=True)) if value.is_tensor else None
        return Leaf(value.name, shape, value.dtype, chosen.get(value) if value.is_tensor else None)

    signatures: dict[str, Signature] = {}
    for name, function in graph.functions.items():
        wanted = iter([w for _, w, _ in function.at_end])

        def result(value: Value, wanted: Any = wanted) -> Leaf:
            end = next(wanted)
            found = leaf(value)
            return Leaf(found.name, found.shape, found.dtype, end if end is not None and value.is_tensor else found.sharding)

        params: tuple[LeafTree, ...] = tuple(map_tree(p, leaf) for p in function.params)
        signatures[name] = Signature(params, map_tree(function.result, result) if function.result is not None else (), function.num_input)
    own = {v: f"{v.function}.{v.name}" for v in graph.values}
    return Plan(
        mesh=cost.mesh,
        params={v.name: chosen[v] for v in problem.values if v.role == "weight"},
        inputs={own[v]: chosen[v] for v in problem.values if v.role == "input"},
        outputs={key: s for name, sig in signatures.items() for key, s in _outputs(name, sig.outputs)},
        values={own[v]: chosen[v] for v in problem.values if v.role != "weight"},
        functions=signatures,
        choices=choices,
        collectives=collectives,
        reasons={(v.name if v.role == "weight" else own[v]): v.reason for v in problem.values if v.reason},
        predicted=predicted,
        profile=cost.profile.name,
        width=solution.width,
        notes=list(notes),
    )


def _outputs(name: str, tree: LeafTree) -> list[tuple[str, Sharding]]:
    if isinstance(tree, Leaf):
        return [(name, tree.sharding)] if tree.sharding is not None else []
    return [pair for i, part in enumerate(tree) for pair in _outputs(f"{name}[{i}]", part)]
