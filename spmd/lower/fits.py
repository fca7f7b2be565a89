"""Whether a plan is one for this module: passes may have changed the module since, or the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace
from itertools import zip_longest

from spmd.errors import ShardingError
from spmd.ir.trees import leaves
from spmd.placement.layout import same_placement
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, output_shardings
from spmd.plan.model import Plan
from spmd.plan.steps import MADE, TAKEN, Bundle, Compute, Mask, Reorder, Step, Transfer, computes, conversions, moves
from spmd.program.graph import Branch, Function, Graph, Value
from spmd.realize.write import Decided, End, realize
from spmd.rules.model import Rule
from spmd.rules.strategy import Strategy, strategy_of
from spmd.transfers.conversion import Move, move_between

from .kept import WAY_OUT, check_held, kept_by
from .symbols import sizes_passed


def check_plan(graph: Graph, plan: Plan) -> None:
    """Raise `ShardingError` unless the plan has the functions, arguments, results, operators and values of the graph, says of each value
    how it is kept, and runs each operator in a way that its rule allows. What is not checked again is whether there is a better plan.
    """
    if list(plan.signatures) != list(graph.functions):
        what = f"it is for the functions {list(plan.signatures)}, the module has {list(graph.functions)}"
        raise ShardingError("plan", what, WAY_OUT)
    allowed: set[Hashable] = set()
    for name, function in graph.functions.items():
        _check_signature(function, plan)
        if name not in plan.steps:
            raise ShardingError(f"plan for {name!r}", "it has no steps of this function", WAY_OUT)
        choices = computes(plan.steps[name])
        for node, choice in zip(function.nodes, choices, strict=False):
            found, planned = _text(node.op, node.name, [v.path for v in node.inputs]), _text(choice.op, choice.name, choice.operands)
            if found != planned:
                raise _differs(name, planned, found)
            key = (node.call_class, choice.splits, choice.inputs, choice.outputs, choice.partial_through)
            if key not in allowed and not _allows(node.rule, choice, plan.mesh):
                what = f"its rule does not allow {', '.join(map(str, choice.inputs))} -> {', '.join(map(str, choice.outputs))}"
                raise ShardingError(f"plan for {name!r}: {node.op} {node.name!r}", what, WAY_OUT)
            allowed.add(key)
        if len(choices) != len(function.nodes):
            raise _differs(name, f"{len(choices)} operators", str(len(function.nodes)))
        _check_values(function, plan)
        _check_steps(function, plan)
    passed = sizes_passed(graph, plan)
    for name, signature in plan.functions.items():
        if signature.sizes != (sizes := passed[name].sizes if name in passed else ()):
            raise _differs(name, f"a worker told the sizes {list(signature.sizes)}", f"a worker told {list(sizes)}")


def _check_values(function: Function, plan: Plan) -> None:
    """Every value is kept somehow in which a worker can hold it, and what is said of it twice is the same."""
    where, held = f"plan for {function.name!r}", set[tuple[Sharding, int]]()
    assert function.result is not None
    ends = leaves((*function.params, function.result))
    for value in dict.fromkeys([*ends, *(v for node in function.nodes for v in (*node.inputs, *node.outputs))]):
        if value.is_tensor:
            kept = kept_by(plan, value)
            if (kept, value.type_class) not in held:
                check_held(kept, value, plan.mesh, f"{where}: {value.path!r}")
            held.add((kept, value.type_class))
    signature = plan.signatures[function.name]
    for value, leaf in zip(leaves(tuple(function.params)), leaves((*signature.params, *signature.constants)), strict=True):
        _agree(value, leaf, kept_by(plan, value) if value.is_tensor else None, where)
        if value.role == "input" and value.is_tensor:
            _agree(value, leaf, plan.inputs.get(value.path), where)
    for value, leaf in zip(leaves(function.result), leaves(signature.outputs), strict=True):
        if value.is_tensor:
            if leaf.sharding is None:
                raise ShardingError(where, f"it does not say how it returns {value.name!r}", WAY_OUT)
            check_held(leaf.sharding, value, plan.mesh, f"{where}: {value.path!r}")
    for path, sharding in output_shardings(function.name, signature.outputs) if not function.is_loop else ():
        if plan.outputs.get(path) != sharding:
            raise ShardingError(where, f"it returns {path!r} as {sharding}, and says {plan.outputs.get(path)} of it", WAY_OUT)


def _check_steps(function: Function, plan: Plan) -> None:
    """What each worker does follows from what was decided of values and operators; which transfers go in one call is free."""
    where, steps = f"plan for {function.name!r}", plan.steps[function.name]
    runs = {n: Strategy(s.splits, s.inputs, s.outputs, s.partial_through) for n, s in zip(function.nodes, computes(steps), strict=True)}
    ends = [End(leaf.sharding) for leaf in leaves(plan.signatures[function.name].outputs)]
    kept = {v: kept_by(plan, v) for v in function.named.values()}

    planned = _planned_ways(plan, function, where)

    def ways(value: Value, source: Sharding, target: Sharding, _: bool) -> Sequence[Move] | None:
        is_made = target == kept[value]
        found = planned.get((value.path, MADE, source) if is_made else (value.path, TAKEN, target))
        if found is None and same_placement(source, target, plan.mesh):
            return []
        if found is not None or is_made:  # what nothing takes as it is kept does not go there
            return found
        what = f"its steps do not say how it goes from {source} to {target}, which follows from its decisions"
        raise ShardingError(f"{where}: {value.name!r}", what, WAY_OUT)

    decided = Decided(plan.mesh, kept, runs.__getitem__, lambda _: ends, ways)
    expected = realize(function, decided)
    bundled = {_conversion(t) for step in steps if isinstance(step, Bundle) for t in step.transfers}
    for member in (v for v in function.named.values() if v.memory and any(v.path == name for name, *_ in bundled)):
        raise ShardingError(f"{where}: {member.name!r}", "it is written in place, and waits in a bundle", WAY_OUT)
    found, wanted = ([_identity(step) for step in of if not _is_in(step, bundled)] for of in (steps, expected))
    for ours, theirs in zip_longest(wanted, found, fillvalue="nothing"):
        if ours != theirs:
            raise ShardingError(where, f"it does {theirs} where {ours} follows from its decisions", WAY_OUT)
    inside, due = (Counter(map(_identity, moves(step for step in of if _is_in(step, bundled)))) for of in (steps, expected))
    if inside != due:
        raise ShardingError(where, f"its bundles move {sorted(inside)}, and {sorted(due)} follows from its decisions", WAY_OUT)


def _planned_ways(plan: Plan, function: Function, where: str) -> dict[tuple[str, str, Sharding], list[Move]]:
    """The moves of a value in the steps, each of them one that there is: from how it is made, and to how it is taken.

    Ways to one sharding may begin at several in different branches; the longest comes by all of these.
    """
    found: dict[tuple[str, str, Sharding], list[Move]] = {}
    values = function.named
    for parts in conversions(plan.steps[function.name]):
        way = list(dict.fromkeys(part.move for part in parts))
        name = parts[0].value
        if name not in values:
            raise ShardingError(where, f"its steps move {name!r}, which the function does not have", WAY_OUT)
        for move in way:
            check_held(move.target, values[name], plan.mesh, f"{where}: {name!r}")
            if move_between(move.source, move.target, plan.mesh) != move:
                raise ShardingError(f"{where}: {name!r}", f"there is no {move.kind} from {move.source} to {move.target}", WAY_OUT)
        key = (name, MADE, way[0].source) if parts[0].cause.role == MADE else (name, TAKEN, way[-1].target)
        found[key] = max(found.get(key, []), way, key=len)
    return found


def _conversion(step: Transfer | Reorder) -> tuple[str, str, int, Branch]:
    return step.value, step.cause.role, step.cause.at, step.branch


def _is_in(step: Step, bundled: Collection[Hashable]) -> bool:
    """Whether a step is a bundle, or a part of a conversion that goes in one."""
    return isinstance(step, Bundle) or (isinstance(step, Transfer | Reorder) and _conversion(step) in bundled)


def _identity(step: Step) -> str:
    """What a step does, without what it takes and why."""
    if isinstance(step, Compute):
        return f"{step.op} {step.name!r} {step.branch}"
    if isinstance(step, Transfer | Reorder):
        kind = step.kind if isinstance(step, Reorder) else "transfer"
        return f"{kind} {step.move} of {step.value!r}, {step.cause.role} {step.cause.at} {step.branch}"
    return str(replace(step, bytes=0, seconds=0.0) if isinstance(step, Mask) else step)


def _agree(value: Value, leaf: Leaf, kept: Sharding | None, where: str) -> None:
    if leaf.sharding != kept:
        raise ShardingError(where, f"it takes {value.name!r} as {leaf.sharding}, and says {kept} of it elsewhere", WAY_OUT)


def _check_signature(function: Function, plan: Plan) -> None:
    planned = plan.signatures[function.name]
    if planned.num_input != function.num_input:
        raise _differs(function.name, f"num_input {planned.num_input}", str(function.num_input))
    assert function.result is not None
    here = [_described(value) for value in leaves((*function.params, function.result))]
    there = [_planned(leaf) for leaf in leaves((*planned.params, *planned.constants, planned.outputs))]
    for ours, theirs in zip_longest(here, there, fillvalue="nothing"):
        if ours != theirs:
            raise _differs(function.name, theirs, ours)
    results = dict(function.results)
    taken = [leaf.donated for leaf in leaves(planned.params) if leaf.donated]
    for name in taken:
        if name not in results or taken.count(name) > 1:
            raise ShardingError(f"plan for {function.name!r}", f"memory is donated to {name!r}, which is no result, or has some", WAY_OUT)


def _differs(function: str, planned: str, found: str) -> ShardingError:
    return ShardingError(f"plan for {function!r}", f"it has {planned} where the module has {found}", WAY_OUT)


def _described(value: Value) -> str:
    shape = tuple(str(d if s is None else s) for s, d in zip(value.shape, value.dims, strict=True)) if value.is_tensor else None
    return _planned(Leaf(value.name, shape, value.dtype, None))


def _planned(leaf: Leaf) -> str:
    return f"{leaf.name!r}" + (f" {leaf.dtype}[{', '.join(map(str, leaf.shape))}]" if leaf.shape is not None else "")


def _text(op: str, name: str, operands: Sequence[str]) -> str:
    return f"{op} {name!r} of {', '.join(operands) or 'nothing'}"


def _allows(rule: Rule, choice: Compute, mesh: Mesh) -> bool:
    """Whether these shardings follow from the rule: `strategy_of` gives them again."""
    if any(split.wrong or any(s.wrong for s in split.segments) for _, split in choice.splits):
        return False
    if any(f not in rule.sizes or (split.is_known and rule.sizes[f] != split.size) for f, split in choice.splits):
        return False
    terms: dict[str, tuple[int, ...]] = {}
    for i, sharding in enumerate(choice.inputs):
        for axis, _ in sharding.partial:
            terms[axis] = (*terms.get(axis, ()), i)
    linear = [tuple(sorted(given)) for given in rule.linear]
    if any(given not in linear for given in terms.values()):
        return False
    decided = Strategy(choice.splits, choice.inputs, choice.outputs, choice.partial_through)
    return strategy_of(rule, dict(choice.splits), mesh, terms) == decided
