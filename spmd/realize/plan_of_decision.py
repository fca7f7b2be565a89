"""Placement as an optimum: candidates, the tables over them, the exact solution, and what it means as a `Plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from spmd.costs.cost import Cost, Sent
from spmd.costs.planning_sizes import DEFAULT_SIZE
from spmd.ir.trees import map_tree
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Choice, Collective, Leaf, LeafTree, Route, Signature, TensorInfo, output_shardings
from spmd.plan.model import Plan
from spmd.program.graph import Graph, Node, Value
from spmd.propagate.budget import decide_within
from spmd.propagate.decide import Decision
from spmd.propagate.lost import lost_splits
from spmd.propagate.memory import Usage

from .alternatives import Alternatives
from .traffic import Traffic


def make_plan(graph: Graph, cost: Cost) -> Plan:
    """The `Plan` of least predicted time among all that obey the constraints on the graph's values and fit into the memory of a worker.

    Raises `ShardingError` when the constraints contradict each other, and when nothing fits.
    """
    return _report(graph, decide_within(graph, cost))


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
    routes: list[Route] = []
    predicted: dict[str, float] = {}
    notes: dict[str, None] = {}
    replicated: dict[str, list[str]] = {}
    costs: dict[tuple[int, int], tuple[float, list[Sent]]] = {}
    names = {v: v.path for v in graph.values}

    for name, function in graph.functions.items():
        traffic, choices[name] = Traffic(cost, name), []
        for at, node in enumerate(function.nodes):
            strategy = problem.strategy(node, solution.choice)
            alike = (node.call_class, id(strategy))
            if alike not in costs:
                costs[alike] = (cost.operator(node, strategy), cost.exchanges(node, strategy))
            time, exchanges = costs[alike]
            traffic.spend(time, node.branch)
            for value, sharding in zip(node.inputs, strategy.inputs, strict=True):
                kept = chosen[value]
                if sharding is not kept:
                    traffic.convert(value, kept, sharding, node.branch, partial(_taken, node, value, kept, sharding), node, at)
            traffic.exchange(node, strategy, exchanges, at)
            for value, sharding in zip(node.outputs, strategy.outputs, strict=True):
                kept = chosen[value]
                if sharding is not kept:
                    traffic.convert(value, sharding, kept, node.branch, partial(_made, node, value, sharding, kept), node, at)
            decided = (strategy.splits, strategy.inputs, strategy.outputs, strategy.partial_through, node.no_rule)
            operands = (tuple([names[v] for v in node.inputs]), tuple([names[v] for v in node.outputs]))
            choices[name].append(Choice(node.op, node.name, *decided, *operands, time))
            if node.no_rule:
                replicated.setdefault(f"{node.op} is replicated, as {node.no_rule}", []).append(f"{name}: {node.name!r}")
        for value, wanted, why in function.at_end:
            if wanted is not None:
                end = problem.at_end(value, wanted, solution.choice)
                reason = partial("{!r} is kept as {}, {}".format, value.name, chosen[value], why)
                traffic.convert(value, chosen[value], end, (), reason, gather=wanted.gather)
        traffic.bundle(function.nodes)
        collectives += traffic.collectives
        routes += traffic.routes.values()
        predicted[name] = traffic.seconds()
    for what, where in replicated.items():
        notes[f"{what} ({where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''})"] = None
    for function in graph.functions.values():
        notes.update(dict.fromkeys(lost_splits(function, chosen.__getitem__, lambda n: problem.strategy(n, solution.choice), cost.mesh)))
    notes.update(dict.fromkeys(decision.notes))
    if cost.mesh.size > 1 and all(not sharding.axes() for sharding in chosen.values()):
        way_out = "pass specs, or the profile of your hardware"
        notes[f"nothing is split: under profile {cost.profile.name!r} that would cost more time than it saves; {way_out}"] = None
    usage = Usage(problem, solution.choice)
    if usage.unknown and cost.memory is not None:
        names_of = ", ".join(repr(v.name) for v in usage.unknown)
        way_out = "give the sizes of what makes it with sizes="
        notes[f"the memory of {names_of} is not counted, as nothing says how large it is; {way_out}"] = None
    if cost.guessed and cost.has_own_budget:
        guessed = ", ".join(map(repr, cost.guessed))
        notes[f"memory was planned with {DEFAULT_SIZE} for the symbolic sizes {guessed}; give them with sizes="] = None
    if usage.assumed and cost.memory is not None and not cost.has_own_budget:
        assumed = ", ".join(map(repr, usage.assumed))
        notes[f"weights are counted with {DEFAULT_SIZE} for their symbolic sizes {assumed}; give them with sizes="] = None
    if solution.gap:
        notes[f"the plan is within {solution.gap:.2%} of the optimum, which was not reached"] = None

    def leaf(value: Value) -> Leaf:
        shape = tuple(s if s is not None else str(d) for s, d in zip(value.shape, value.dims, strict=True)) if value.is_tensor else None
        return Leaf(value.name, shape, value.dtype, chosen.get(value) if value.is_tensor else None, bool(value.memory))

    signatures: dict[str, Signature] = {}
    for name, function in graph.functions.items():
        ends = iter([problem.at_end(v, w, solution.choice) if w is not None else None for v, w, _ in function.at_end])

        def result(value: Value, ends: Any = ends) -> Leaf:
            end = next(ends)
            found = leaf(value)
            return replace(found, sharding=end) if end is not None and value.is_tensor else found

        params: tuple[LeafTree, ...] = tuple(map_tree(p, leaf) for p in function.params)
        own = len(params) - function.constants
        ends_in: LeafTree = map_tree(function.result, result) if function.result is not None else ()
        constants = tuple(p for p in params[own:] if isinstance(p, Leaf))
        given = tuple(str(p.name) for p in graph.module[name].params[:own])
        signatures[name] = Signature(params[:own], ends_in, function.num_input, given, constants)
    outputs = {key: s for name, sig in signatures.items() for key, s in output_shardings(name, sig.outputs)}
    returns = {
        key: (f, i)
        for name, f in graph.functions.items()
        for (key, _), i in zip(
            output_shardings(name, signatures[name].outputs), [i for i, (v, _, _) in enumerate(f.at_end) if v.is_tensor], strict=True
        )
    }
    reasons = {names[v]: v.reason for v in problem.values if v.reason}
    held = {names[v]: v for v in problem.values}
    returned = {key: f.at_end[i] for key, (f, i) in returns.items()}
    made = Plan(
        mesh=cost.mesh,
        params={v.name: chosen[v] for v in problem.values if v.role == "weight"},
        inputs={names[v]: chosen[v] for v in problem.values if v.role == "input"},
        outputs=outputs,
        values={names[v]: chosen[v] for v in problem.values if v.role != "weight"},
        functions=signatures,
        choices=choices,
        collectives=collectives,
        reasons={**reasons, **{key: why for key, (_, wanted, why) in returned.items() if wanted is not None}},
        predicted=predicted,
        profile=cost.profile.name,
        width=solution.width,
        notes=list(notes),
        routes=routes,
        memory={name: usage.of(name) for name in graph.functions},
        tensors=_tensors(cost, {**held, **{key: value for key, (value, _, _) in returned.items()}}),
    )
    made.searched = Alternatives(decision, held, returns)
    return made


def _tensors(cost: Cost, values: Mapping[str, Value]) -> dict[str, TensorInfo]:
    """Shape and type of every tensor."""
    known: dict[int, TensorInfo] = {}

    def info(value: Value) -> TensorInfo:
        if value.type_class not in known:
            shape = tuple([d if isinstance(d, int) else str(d) for d in value.dims])
            known[value.type_class] = TensorInfo(shape, cost.shape(value), value.dtype)
        return known[value.type_class]

    return {n: info(v) for n, v in values.items() if v.is_tensor}
