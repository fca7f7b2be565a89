"""A plan in words: why one value is where it is, and the whole in a page."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from spmd.errors import ShardingError, nearest
from spmd.ir.trees import leaves
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Alternative, Collective, branch_text, output_shardings
from spmd.plan.model import Plan

from .tables import first_of_calls, folded, item_bytes, shape_text, size_text, time_text

_RESULT = re.compile(r"\[\d+\]")
MOST_LISTED = 6
"""Operators, and other choices, that an explanation names."""


def known_name(plan: Plan, name: str, where: str = "Plan.explain") -> Sharding:
    """The sharding of a weight, an input, a value or an output. Raises `ShardingError` with the nearest names for any other name."""
    known = {**plan.values, **plan.params, **plan.inputs, **plan.outputs}
    if name not in known:
        raise ShardingError(where, f"there is no value {name!r}", nearest(name, known))
    return known[name]


def summary(plan: Plan) -> str:
    """The whole plan in a page: weights with equal layers as one, what each function sends and takes, and all that is to be noted."""
    lines = [f"{plan.mesh}, profile {plan.profile}, elimination width {plan.width}", *_held_as("", plan.params.items())]
    for function in plan.signatures:
        inside: dict[tuple[tuple[str, bool], ...], list[Collective]] = {(): []}
        for c in plan.collectives:
            if c.function == function:
                inside.setdefault(c.branch, []).append(c)
        lines.append(f"{function}: {_counted(inside.pop(()))}, {plan.predicted[function] * 1e6:.1f} us predicted")
        lines += _held_as("takes ", [(name, plan.inputs[name]) for name in inputs_of(plan, function)])
        lines += _held_as("gives ", output_shardings(function, plan.signatures[function].outputs))
        lines += [f"  in {', '.join(map(branch_text, branch))}: {_counted(found)}" for branch, found in inside.items()]
    return "\n".join([*lines, *(f"note: {n}" for n in plan.notes), *(f"remark: {r}" for r in plan.remarks)])


def inputs_of(plan: Plan, function: str) -> list[str]:
    """The names of the inputs of a function in `Plan.inputs`, in order: all its parameters but the weights."""
    named = (f"{function}.{leaf.name}" for leaf in leaves(plan.signatures[function].params))
    return [name for name in named if name in plan.inputs]


def _held_as(what: str, shardings: Iterable[tuple[str, Sharding]]) -> list[str]:
    """A line for each name, those of equal layers and of results of one kind in one."""
    alike: dict[tuple[str, Sharding], list[str]] = {}
    for name, sharding in shardings:
        alike.setdefault((_RESULT.sub("[*]", folded(name)), sharding), []).append(name)
    rows = [(names[0] if len(names) == 1 else together, s, len(names)) for (together, s), names in alike.items()]
    width = max((len(name) for name, _, _ in rows), default=0)
    return [f"  {what}{name:{width}}  {s}" + (f"  ({count} of them)" if count > 1 else "") for name, s, count in rows]


def explanation(plan: Plan, name: str) -> str:
    """One value: where it lives, what decided, what else it could have been, who makes and takes it, and what it sends."""
    sharding = known_name(plan, name)
    lines = [f"{name}: {sharding}", *_held(plan, name, sharding)]
    if name in plan.reasons:
        lines.append(f"  because {plan.reasons[name]}")
    if name in plan.again:
        lines.append(f"  made again for who reads it from {plan.again[name]!r} on, and not held until then")
    lines += _alternatives(plan, name)
    lines += _uses(plan, name)
    lines += [f"  {c}" for c in plan.collectives if name in (c.value, f"{c.function}.{c.value}")]
    return "\n".join(lines)


def _held(plan: Plan, name: str, sharding: Sharding) -> list[str]:
    info = plan.tensors.get(name)
    if info is None:
        return []
    local = sharding.local_shape(info.sizes, plan.mesh)
    shown = [n if isinstance(text, int) else text for n, text in zip(local, info.shape, strict=True)]
    item = item_bytes(info.dtype)
    held, whole = math.prod(local) * item, math.prod(info.sizes) * item
    every = f"whole on {plan.mesh.size} workers"
    if local != info.sizes or sharding.partial:
        every = f"each of {plan.mesh.size} workers holds {shape_text(shown)}"
    every += "".join(f", a part of the {kind} over {axis}" for axis, kind in sharding.partial)
    what = "a constant of the program, " if name in plan.constants else ""
    return [f"  {info.dtype} {shape_text(info.shape)}, {what}{every}: {held:,} bytes of {whole:,}"]


def _alternatives(plan: Plan, name: str) -> list[str]:
    if plan.searched is None:
        return ["  what else it could have been is known only where the plan was made"]
    others = plan.searched.of(name)
    if not others:
        free = plan.searched.lifted(name)
        if free is None:
            return ["  no operator offers another way to hold it"] if name not in plan.reasons else []
        if abs(free.seconds) < 1e-12 and free.sharding == known_name(plan, name):
            return ["  without that it would be the same"]
        if abs(free.seconds) < 1e-12:
            return [f"  without that it could be {free.sharding}, for the same time"]
        return [f"  without that it would be {free.sharding}, {_change(free)}"]
    possible = [a for a in others if a.fits and not math.isinf(a.seconds)]
    too_large = [a for a in others if not a.fits]
    lines: list[str] = []
    if not possible:
        lines.append(f"  nothing else obeys all that is asked: not {_several([a.sharding for a in others])}")
    elif abs(possible[0].seconds) < 1e-12:
        lines.append(f"  {possible[0].sharding} would cost the same")
    else:
        lines.append(f"  chosen for its time: the next best, {possible[0].sharding}, costs {_change(possible[0])}")
    for other in too_large[:1]:
        lines.append(f"  {other.sharding} takes too much memory: its fastest plan needs {size_text(other.memory)} a worker")
    if rest := possible[1:]:
        shown = [f"{a.sharding} {'at least ' if a.is_bound else ''}{time_text(a.seconds, sign=True)}" for a in rest[:MOST_LISTED]]
        lines.append("  others: " + ", ".join(shown) + (f", and {len(rest) - MOST_LISTED} more" if len(rest) > MOST_LISTED else ""))
    return lines


def _change(other: Alternative) -> str:
    """How much more or less time another choice takes, and where."""
    parts = f"operators {time_text(other.operators, sign=True)}, conversions {time_text(other.conversions, sign=True)}"
    parts += f", found within {other.gap:.2%} of the best plan" if other.gap else ""
    most = f"; most around {other.most}, {time_text(other.most_seconds, sign=True)}" if other.most else ""
    return f"{time_text(abs(other.seconds))} {'more' if other.seconds > 0 else 'less'} ({parts}{most})"


def _several(shardings: Sequence[Sharding]) -> str:
    return ", ".join(map(str, shardings[:MOST_LISTED])) + (", ..." if len(shardings) > MOST_LISTED else "")


def _uses(plan: Plan, name: str) -> list[str]:
    made: list[str] = []
    taken: list[str] = []
    for function, choices in plan.choices.items():
        for choice in choices:
            who = f"{choice.op} {choice.name!r} of {function!r}"
            made += [f"  made by {who} as {s}" for v, s in zip(choice.results, choice.outputs, strict=False) if v == name]
            taken += [f"  taken by {who} as {s}" for v, s in zip(choice.operands, choice.inputs, strict=False) if v == name]
    more = [f"  taken by {len(taken) - MOST_LISTED} more"] if len(taken) > MOST_LISTED else []
    return [*made[:MOST_LISTED], *taken[:MOST_LISTED], *more]


def _counted(collectives: Sequence[Collective]) -> str:
    counts, calls = Counter(c.kind for c in collectives), Counter(c.kind for c in first_of_calls(collectives))

    def text(kind: str) -> str:
        together = f" in {calls[kind]} call{'s' * (calls[kind] > 1)}" if calls[kind] < counts[kind] else ""
        return f"{counts[kind]} {kind}{together}"

    what = ", ".join(map(text, sorted(counts))) or "no collectives"
    return f"{what}, {sum(c.bytes for c in collectives)} bytes"
