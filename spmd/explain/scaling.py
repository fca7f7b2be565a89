"""What more workers bring: predicted times over numbers of workers, and where the plan changes, as text and as SVG."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import pairwise
from pathlib import Path

from spmd import checks
from spmd.checks import door
from spmd.placement.mesh import Mesh
from spmd.plan.model import Plan

from .chart import Line, chart
from .tables import Table, folded, size_text, time_text

_SEGMENTS = re.compile(r":[^,\]+]*")
_MOST = 4
"""Differences of a change that are told."""


@dataclass(frozen=True)
class Point:
    """The plan of one mesh, in numbers; or `problem`, why there is none."""

    mesh: Mesh
    predicted: Mapping[str, float]
    """Function -> seconds."""
    memory: int
    """Bytes that a worker holds in the function that needs most."""
    decided: Mapping[str, str]
    """What is compared from mesh to mesh: how weights of a kind are held, without numbers, and how many collectives each function runs."""
    problem: str = ""

    @classmethod
    def of(cls, plan: Plan) -> Point:
        """The numbers of a plan."""
        held = {folded(name): _SEGMENTS.sub("", str(sharding)) for name, sharding in plan.params.items()}
        sent: dict[str, Counter[str]] = {name: Counter() for name in plan.signatures}
        for c in plan.collectives:
            sent[c.function][c.kind] += 1
        texts = {name: ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) for name, kinds in sent.items()}
        moved = {f"{name}()": text or "no collectives" for name, text in texts.items()}
        fullest = max((m.peak for m in plan.memory.values()), default=0)
        return cls(plan.mesh, dict(plan.predicted), fullest, {**held, **moved})


@dataclass(frozen=True)
class Change:
    """Where the plan is another one than for the mesh before."""

    mesh: Mesh
    lines: tuple[str, ...]
    """What is different, a line each."""


@dataclass(frozen=True, repr=False)
class Scaling:
    """Predicted times over meshes, in the order in which they were asked for. ``str()`` gives a table, notebooks show the plot."""

    points: tuple[Point, ...]
    profile: str

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The meshes at which the plan changes, and what does."""
        planned = [point for point in self.points if not point.problem]
        found = [Change(b.mesh, tuple(_differences(a.decided, b.decided))) for a, b in pairwise(planned)]
        return tuple(change for change in found if change.lines)

    @property
    def functions(self) -> list[str]:
        """The functions, in order."""
        return list(dict.fromkeys(name for point in self.points for name in point.predicted))

    def __str__(self) -> str:
        rows = [(str(p.mesh), *(self._cell(p, name) for name in self.functions), self._held(p)) for p in self.points]
        table = Table(f"predicted time, profile {self.profile}", ("mesh", *self.functions, "a worker holds"), tuple(rows))
        problems = [f"{p.mesh}: no plan: {p.problem.partition(' (')[0]}" for p in self.points if p.problem]
        return "\n".join([str(table), *problems, *(text for change in self.changes for text in _told(change))])

    def __repr__(self) -> str:
        return str(self)

    def _cell(self, point: Point, name: str) -> str:
        return time_text(point.predicted[name]) if name in point.predicted else "-"

    def _held(self, point: Point) -> str:
        return "-" if point.problem else size_text(point.memory)

    def _repr_html_(self) -> str:
        """What a notebook shows: the plot, and what changes."""
        return self.svg() + "".join(f"<div>{escape(line)}</div>" for change in self.changes for line in _told(change))

    def svg(self) -> str:
        """The plot: a line a function over the number of workers, both axes logarithmic, thin lines for perfect scaling, changes marked."""
        lines: list[Line] = []
        for name in self.functions:
            at = [(p.mesh.size, p.predicted[name]) for p in self.points if p.predicted.get(name, 0) > 0]
            if at:
                lines += [Line(name, tuple(sorted(at))), Line("", tuple((n, min(at)[1] * min(at)[0] / n) for n, _ in sorted(at)))]
        marks = {change.mesh.size: "\n".join(change.lines) for change in self.changes}
        missing = {p.mesh.size: p.problem for p in self.points if p.problem}
        return chart(f"predicted time, profile {self.profile}", "workers", time_text, lines, marks, missing)

    @door(path=checks.path)
    def save(self, path: str | Path) -> None:
        """Write the plot to a file."""
        Path(path).write_text(self.svg() + "\n")


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """What is decided otherwise, what is alike together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, text in after.items():
        if before.get(name) != text:
            alike.setdefault((before.get(name, "-"), text), []).append(name)
    for (old, new), names in alike.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{names[0]}{more}: {old} -> {new}"


def _told(change: Change) -> Sequence[str]:
    more = len(change.lines) - _MOST
    return [f"from {change.mesh} on:", *(f"  {line}" for line in change.lines[:_MOST]), *([f"  and {more} more"] if more > 0 else [])]
