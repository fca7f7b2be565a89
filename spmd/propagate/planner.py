"""Placement as an optimum: candidates, the tables over them, the exact solution, and what it means as a `Plan`."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..graph import Graph, Node, Value, map_tree
from ..plan import Choice, Collective, Leaf, LeafTree, Plan, Signature
from ..sharding import Sharding
from .cost import Cost
from .decide import Decision, decide
from .traffic import Traffic


def make_plan(graph: Graph, cost: Cost) -> Plan:
    """The `Plan` of least predicted time among all that obey the constraints on the graph's values.

    Raises `ShardingError` when the constraints contradict each other.
    """
    return _report(graph, decide(graph, cost))


def _taken(node: Node, value: Value, kept: Sharding, wanted: Sharding) -> str:
    return f"{value.name!r} is kept as {kept}, {node.op} {node.name!r} takes it as {wanted}"


def _made(node: Node, value: Value, made: Sharding, kept: Sharding) -> str:
    return f"{node.op} makes {value.name!r} as {made}, it is kept as {kept}"


def _report(graph: Graph, decision: Decision) -> Plan:
    """The solution as a `Plan`."""
    problem, solution = decision.problem, decision.solution
    cost = problem.cost
    chosen = {v: problem.sharding(v, solution.choice) for v in problem.values}
    choices: dict[str, list[Choice]] = {}
    collectives: list[Collective] = []
    predicted: dict[str, float] = {}
    notes: dict[str, None] = {}
    replicated: dict[str, list[str]] = {}
    costs: dict[tuple[int, int], tuple[float, list[tuple[str, str, int]]]] = {}

    for name, function in graph.functions.items():
        traffic, choices[name] = Traffic(cost, name), []
        for node in function.nodes:
            strategy = problem.strategy(node, solution.choice)
            alike = (node.call_class, id(strategy))
            if alike not in costs:
                costs[alike] = (cost.operator(node, strategy), cost.exchanges(node, strategy))
            time, exchanges = costs[alike]
            traffic.spend(time, node.branch)
            for value, sharding in zip(node.inputs, strategy.inputs, strict=True):
                traffic.convert(value, chosen[value], sharding, node.branch, partial(_taken, node, value, chosen[value], sharding))
            traffic.exchange(node, strategy, exchanges)
            for value, sharding in zip(node.outputs, strategy.outputs, strict=True):
                traffic.convert(value, sharding, chosen[value], node.branch, partial(_made, node, value, sharding, chosen[value]))
            choices[name].append(
                Choice(node.op, node.name, strategy.splits, strategy.inputs, strategy.outputs, strategy.partial_through, node.no_rule)
            )
            if node.no_rule:
                replicated.setdefault(f"{node.op} is replicated, as {node.no_rule}", []).append(f"{name}: {node.name!r}")
        for value, wanted, why in function.at_end:
            if wanted is not None:
                traffic.convert(value, chosen[value], wanted, (), partial("{!r} is kept as {}, {}".format, value.name, chosen[value], why))
        collectives += traffic.collectives
        predicted[name] = traffic.seconds()
    for what, where in replicated.items():
        notes[f"{what} ({where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''})"] = None
    notes.update(dict.fromkeys(decision.notes))
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
