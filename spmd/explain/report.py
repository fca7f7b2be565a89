"""What a plan costs, as tables: bytes moved by kind, time by function, memory of a worker."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spmd.plan.decisions import Collective, Memory
from spmd.plan.model import Plan

from .tables import Table, first_of_calls, folded, item_bytes, shape_text, size_text, time_text


@dataclass(frozen=True)
class Moved:
    """All collectives of one kind over one axis in one function: how many tensors they move, in how many calls.

    `bytes` is what each worker brings, in all.
    """

    function: str
    kind: str
    axis: str
    count: int
    calls: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Timed:
    """A function: its operators, and its predicted seconds, of two branches the slower; `collectives` counts both."""

    function: str
    operators: int
    seconds: float
    collectives: float


@dataclass(frozen=True)
class Resident:
    """Weights that are alike but for the number of their layer, and their bytes at the planning sizes, padding included."""

    name: str
    count: int
    shape: tuple[int | str, ...]
    dtype: str
    sharding: str
    whole: int
    local: int


@dataclass(frozen=True)
class Report:
    """A plan in numbers. ``str()`` gives text; `rich` prints it with its own tables."""

    title: str
    moved: tuple[Moved, ...]
    timed: tuple[Timed, ...]
    weights: tuple[Resident, ...]
    slowest: tuple[Collective, ...]
    """The collectives that take the most time, one of each kind that is alike."""

    memory: dict[str, Memory]
    """Function -> what each worker holds while it runs."""

    @property
    def tables(self) -> list[Table]:
        """The tables that it prints."""
        moved = [(m.function, m.kind, m.axis, f"{m.count:,}", f"{m.calls:,}", size_text(m.bytes), time_text(m.seconds)) for m in self.moved]
        timed = [(t.function, f"{t.operators:,}", time_text(t.seconds), time_text(t.collectives)) for t in self.timed]
        weights = [
            (r.name, f"{r.count}", f"{r.dtype} {shape_text(r.shape)}", r.sharding, size_text(r.whole), size_text(r.local))
            for r in self.weights
        ]
        whole, local = sum(r.whole for r in self.weights), sum(r.local for r in self.weights)
        held = [
            (name, *map(size_text, (m.weights, m.cache, m.activations, m.peak)), ", ".join(m.unknown) or "-", ", ".join(m.assumed) or "-")
            for name, m in self.memory.items()
        ]
        share = f" ({local / whole:.0%})" if whole else ""
        slowest = [(c.value, c.function, c.kind, size_text(c.bytes), time_text(c.seconds), c.reason) for c in self.slowest]
        made = [
            Table("time by function", ("function", "operators", "predicted", "in collectives"), tuple(timed)),
            Table("bytes moved", ("function", "collective", "axis", "count", "calls", "bytes", "time"), tuple(moved)),
            Table(
                f"weights: {size_text(whole)} in all, {size_text(local)} on each worker{share}",
                ("weight", "count", "whole", "sharding", "bytes", "on a worker"),
                tuple(weights),
            ),
            Table(
                "memory of a worker", ("function", "weights", "cache", "activations", "peak", "not counted", "sizes not given"), tuple(held)
            ),
            Table("slowest collectives", ("value", "function", "collective", "bytes", "time", "reason"), tuple(slowest)),
        ]
        return [table for table in made if table.rows]

    def __str__(self) -> str:
        return "\n\n".join([self.title, *map(str, self.tables)])

    def html(self) -> str:
        """The tables as HTML, which notebooks show."""
        return "".join([f"<p>{html.escape(self.title)}</p>", *(table.html() for table in self.tables)])

    def _repr_html_(self) -> str:
        return self.html()

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield self.title
        for table in self.tables:
            yield table.rich()


def report(plan: Plan) -> Report:
    """The numbers of a plan."""
    groups: dict[tuple[str, str, str], list[Collective]] = {}
    for c in plan.collectives:
        groups.setdefault((c.function, c.kind, c.axis), []).append(c)
    moved = [
        Moved(*key, len(found), len(first_of_calls(found)), sum(c.bytes for c in found), sum(c.seconds for c in found))
        for key, found in groups.items()
    ]
    sent = {name: sum(m.seconds for m in moved if m.function == name) for name in plan.signatures}
    timed = [Timed(name, len(plan.choices[name]), plan.predicted[name], sent[name]) for name in plan.signatures]
    different: dict[tuple[str, str, str, int, str], Collective] = {}
    for c in plan.collectives:
        different.setdefault((c.function, c.kind, c.axis, c.bytes, c.op), c)
    slowest = sorted(different.values(), key=lambda c: -c.seconds)[:5]
    title = f"{plan.mesh}, profile {plan.profile}"
    return Report(title, tuple(moved), tuple(timed), tuple(residents(plan)), tuple(slowest), plan.memory)


def residents(plan: Plan) -> list[Resident]:
    """The weights that each worker holds, equal layers as one."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for name, sharding in plan.params.items():
        info = plan.tensors.get(name)
        if info is not None:
            item = item_bytes(info.dtype)
            whole = math.prod(info.sizes) * item
            local = math.prod(sharding.local_shape(info.sizes, plan.mesh)) * item
            sums = found.setdefault((folded(name), info.shape, info.dtype, str(sharding)), [0, 0, 0])
            for i, n in enumerate((1, whole, local)):
                sums[i] += n
    return [Resident(name, n, shape, dtype, text, whole, local) for (name, shape, dtype, text), (n, whole, local) in found.items()]
