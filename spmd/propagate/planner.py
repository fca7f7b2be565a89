"""Placement as an optimum: the search, what it decides as a `Plan`, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from spmd.costs.cost import Cost
from spmd.costs.planning_sizes import DEFAULT_SIZE
from spmd.ir.trees import map_tree
from spmd.plan.decisions import Leaf, LeafTree, Signature, TensorInfo, output_shardings
from spmd.plan.model import Plan
from spmd.plan.steps import Step, computes
from spmd.program.graph import Function, Graph, Value
from spmd.program.liveness import may_be_constant
from spmd.realize.prices import CostPrices
from spmd.realize.seconds import predicted
from spmd.realize.write import Decided, realize

from .alternatives import Alternatives
from .budget import decide_within
from .decide import Decision
from .decided import decided_by
from .lost import lost_splits
from .memory import Usage

_Returned = dict[str, tuple[Function, int]]
"""Name of a result -> its function, and its number among what that returns."""


def make_plan(graph: Graph, cost: Cost, decision: Decision | None = None) -> Plan:
    """The `Plan` of least predicted time among all that obey the constraints on the graph's values and fit into the memory of a worker, or
    that of a `decision` that was made.

    Raises `ShardingError` when the constraints contradict each other, and when nothing fits.
    """
    decision = decision or decide_within(graph, cost)
    decided = decided_by(decision.problem, decision.solution.choice)
    prices = CostPrices(cost)
    steps = {name: realize(function, decided, prices) for name, function in graph.functions.items()}
    usage = Usage(decision.problem, decision.solution.choice, decided, steps)
    signatures = {name: _signature(function, decided, graph) for name, function in graph.functions.items()}
    public = {name: signature for name, signature in signatures.items() if not graph.functions[name].is_loop}
    returned = _returned(graph, public)
    ends = {name: function.at_end[i] for name, (function, i) in returned.items()}
    kept = {v.path: v for v in decision.problem.values}
    asked = {name: why for name, (_, wanted, why) in ends.items() if wanted is not None}
    made = Plan(
        mesh=cost.mesh,
        params={v.name: decided.kept[v] for v in kept.values() if v.role == "weight"},
        inputs={name: decided.kept[v] for name, v in kept.items() if v.role == "input"},
        outputs={name: sharding for function, sig in public.items() for name, sharding in output_shardings(function, sig.outputs)},
        values={name: decided.kept[v] for name, v in kept.items() if v.role != "weight"},
        functions=public,
        loops={name: signature for name, signature in signatures.items() if name not in public},
        steps=steps,
        reasons={**{name: v.reason for name, v in kept.items() if v.reason}, **asked},
        predicted={name: predicted(found) * cost.turns(graph.functions[name]) for name, found in steps.items()},
        profile=cost.profile.name,
        width=decision.solution.width,
        cost=decision.solution.cost,
        bound=decision.solution.bound,
        notes=_notes(decision, decided, steps, usage),
        memory={name: usage.of(name) for name in graph.functions},
        tensors=_tensors(cost, {**kept, **{name: value for name, (value, _, _) in ends.items()}}),
    )
    made.searched = Alternatives(decision, kept, returned)
    return made


def _signature(function: Function, decided: Decided, graph: Graph) -> Signature:
    """What a function takes and gives."""
    constant = may_be_constant(function)
    taken = {value: function.results[number][0] for number, value in function.donated.items()}

    def leaf(value: Value) -> Leaf:
        shape = tuple(s if s is not None else str(d) for s, d in zip(value.shape, value.dims, strict=True)) if value.is_tensor else None
        kept = decided.kept.get(value) if value.is_tensor else None
        return Leaf(value.name, shape, value.dtype, kept, bool(value.memory) or value.donated)

    def given(value: Value) -> Leaf:
        return replace(leaf(value), donated=taken.get(value, ""))

    ends = iter(decided.returned(function))

    def result(value: Value) -> Leaf:
        end = next(ends).sharding
        found = replace(leaf(value), shared=value in constant)
        return replace(found, sharding=end) if end is not None and value.is_tensor else found

    params: tuple[LeafTree, ...] = tuple(map_tree(p, given) for p in function.params)
    own = len(params) - function.constants
    outputs: LeafTree = map_tree(function.result, result) if function.result is not None else ()
    constants = tuple(p for p in params[own:] if isinstance(p, Leaf))
    names = tuple(str(p.name) for p in graph.module[function.name].params[:own])
    return Signature(params[:own], outputs, function.num_input, names, constants)


def _returned(graph: Graph, signatures: Mapping[str, Signature]) -> _Returned:
    """Where each result comes from, by the names that `Plan.outputs` gives them."""
    found: _Returned = {}
    for name, function in ((name, graph.functions[name]) for name in signatures):
        names = [key for key, _ in output_shardings(name, signatures[name].outputs)]
        numbers = [i for i, (value, _, _) in enumerate(function.at_end) if value.is_tensor]
        found.update({key: (function, i) for key, i in zip(names, numbers, strict=True)})
    return found


def _notes(decision: Decision, decided: Decided, steps: Mapping[str, Sequence[Step]], usage: Usage) -> list[str]:
    """What the reader must know of a plan."""
    graph, cost, solution = decision.problem.graph, decision.problem.cost, decision.solution
    notes = _replicated(steps)
    for function in graph.functions.values():
        notes += lost_splits(function, decided.kept.__getitem__, decided.runs, cost.mesh)
    notes += decision.notes
    for function in (f for f in graph.functions.values() if f.is_loop and f.name not in cost.sizes):
        way_out = f"say how many with sizes={{{function.name!r}: ...}}"
        notes.append(f"{function.name} is a loop, planned for {cost.turns(function)} turns; {way_out}")
    if cost.mesh.size > 1 and all(not sharding.axes() for sharding in decided.kept.values()):
        way_out = "pass specs, or the profile of your hardware"
        notes.append(f"nothing is split: under profile {cost.profile.name!r} that would cost more time than it saves; {way_out}")
    notes += _memory_notes(cost, usage)
    if solution.gap:
        notes.append(f"the plan is within {solution.gap:.2%} of the optimum, which was not reached")
    return list(dict.fromkeys(notes))


def _replicated(steps: Mapping[str, Sequence[Step]]) -> list[str]:
    """The operators that run whole for want of a rule, those of one reason in one note."""
    found: dict[str, list[str]] = {}
    for function, of in steps.items():
        for step in computes(of):
            if step.replicated_because:
                found.setdefault(f"{step.op} is replicated, as {step.replicated_because}", []).append(f"{function}: {step.name!r}")
    return [f"{what} ({where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''})" for what, where in found.items()]


def _memory_notes(cost: Cost, usage: Usage) -> list[str]:
    """What was not counted of the memory, or guessed."""
    notes: list[str] = []
    if usage.unknown and cost.memory is not None:
        names = ", ".join(repr(v.name) for v in usage.unknown)
        notes.append(f"the memory of {names} is not counted, as nothing says how large it is; give the sizes of what makes it with sizes=")
    if cost.guessed and cost.has_own_budget:
        guessed = ", ".join(map(repr, cost.guessed))
        notes.append(f"memory was planned with {DEFAULT_SIZE} for the symbolic sizes {guessed}; give them with sizes=")
    if usage.assumed and cost.memory is not None and not cost.has_own_budget:
        assumed = ", ".join(map(repr, usage.assumed))
        notes.append(f"weights are counted with {DEFAULT_SIZE} for their symbolic sizes {assumed}; give them with sizes=")
    return notes


def _tensors(cost: Cost, values: Mapping[str, Value]) -> dict[str, TensorInfo]:
    """Shape and type of every tensor."""
    known: dict[int, TensorInfo] = {}

    def info(value: Value) -> TensorInfo:
        if value.type_class not in known:
            shape = tuple([d if isinstance(d, int) else str(d) for d in value.dims])
            known[value.type_class] = TensorInfo(shape, cost.shape(value), value.dtype)
        return known[value.type_class]

    return {n: info(v) for n, v in values.items() if v.is_tensor}
