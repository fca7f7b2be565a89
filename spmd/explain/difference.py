"""What is different in another plan of the same module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.model import Plan

from .tables import folded, size_text, time_text

Changed = dict[str, tuple[Sharding | None, Sharding | None]]
"""Name -> sharding here and there, None where a plan does not have the name."""

MOST_VALUES = 12
"""Values inside of functions that the text names."""


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over one axis in one function: how many, and the bytes that each worker brings to them."""

    count: int
    bytes: int


@dataclass(frozen=True)
class Difference:
    """Two plans, only where they differ: this one first, the other second."""

    mesh: tuple[Mesh, Mesh] | None
    profile: tuple[str, str] | None
    params: Changed
    inputs: Changed
    outputs: Changed
    values: Changed
    """Values that are no inputs."""
    collectives: dict[tuple[str, str, str], tuple[Traffic, Traffic]]
    """(function, kind, axis) -> what is sent."""
    predicted: dict[str, tuple[float | None, float | None]]
    """Function -> seconds, None where a plan does not have the function."""

    def __bool__(self) -> bool:
        lists = (self.params, self.inputs, self.outputs, self.values, self.collectives, self.predicted)
        return self.mesh is not None or self.profile is not None or any(lists)

    def __str__(self) -> str:
        if not self:
            return "the plans are equal"
        lines = [f"{what}: {pair[0]} -> {pair[1]}" for what, pair in (("mesh", self.mesh), ("profile", self.profile)) if pair]
        for what, changed in (("weights", self.params), ("inputs", self.inputs), ("outputs", self.outputs), ("values", self.values)):
            rows = _folded(changed)
            lines += [f"{what}: {len(changed)} differ{'s' if len(changed) == 1 else ''}"] if rows else []
            lines += [f"  {row}" for row in (rows[:MOST_VALUES] if what == "values" else rows)]
            lines += [f"  and {len(rows) - MOST_VALUES} more"] if what == "values" and len(rows) > MOST_VALUES else []
        lines += ["collectives:"] if self.collectives else []
        for (function, kind, axis), (here, there) in self.collectives.items():
            sides = " -> ".join(f"{s.count} of {size_text(s.bytes)} in all" if s.count else "none" for s in (here, there))
            lines.append(f"  {function}: {kind} over {axis}: {sides}")
        lines += ["predicted time:"] if self.predicted else []
        for function, (here, there) in self.predicted.items():
            ratio = f" ({there / here:.2f} times)" if here and there else ""
            lines.append(f"  {function}: {' -> '.join('none' if s is None else time_text(s) for s in (here, there))}{ratio}")
        return "\n".join(lines)


def difference(here: Plan, there: Plan) -> Difference:
    """How `there` differs from `here`."""
    sent = [_sent(plan) for plan in (here, there)]
    none = Traffic(0, 0)
    inside = [{name: s for name, s in plan.values.items() if name not in plan.inputs} for plan in (here, there)]
    predicted = {name: (here.predicted.get(name), there.predicted.get(name)) for name in {**here.predicted, **there.predicted}}
    return Difference(
        (here.mesh, there.mesh) if here.mesh != there.mesh else None,
        (here.profile, there.profile) if here.profile != there.profile else None,
        _changed(here.params, there.params),
        _changed(here.inputs, there.inputs),
        _changed(here.outputs, there.outputs),
        _changed(*inside),
        {k: pair for k in {**sent[0], **sent[1]} if (pair := (sent[0].get(k, none), sent[1].get(k, none)))[0] != pair[1]},
        {name: pair for name, pair in predicted.items() if pair[0] != pair[1]},
    )


def _changed(here: Mapping[str, Sharding], there: Mapping[str, Sharding]) -> Changed:
    return {name: (here.get(name), there.get(name)) for name in {**here, **there} if here.get(name) != there.get(name)}


def _sent(plan: Plan) -> dict[tuple[str, str, str], Traffic]:
    counts: Counter[tuple[str, str, str]] = Counter()
    held: Counter[tuple[str, str, str]] = Counter()
    for c in plan.collectives:
        counts[c.function, c.kind, c.axis] += 1
        held[c.function, c.kind, c.axis] += c.bytes
    return {key: Traffic(n, held[key]) for key, n in counts.items()}


def _folded(changed: Changed) -> list[str]:
    """One line for what changes alike in every layer."""
    counts = Counter((folded(name), *pair) for name, pair in changed.items())
    return [f"{name}: {a or 'none'} -> {b or 'none'}" + (f" ({n} of them)" if n > 1 else "") for (name, a, b), n in counts.items()]
