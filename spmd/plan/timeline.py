"""What workers do and when, predicted or traced, as data and as JSON for Perfetto (https://ui.perfetto.dev) and ``chrome://tracing``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spmd import checks
from spmd.checks import door

FUNCTION, COMPUTE, COLLECTIVE, RUNTIME = "function", "compute", "collective", "runtime"
"""What a span is: a call of a function, work on local memory, communication, or what the virtual machine does between these."""
_EXPOSED = "exposed communication"
_TRACKS = (FUNCTION, COMPUTE, COLLECTIVE, _EXPOSED, RUNTIME)
"""The rows of a worker, from above."""
_FIRST = 1
"""The number of the first row: thread 0 of any process is the idle one to Perfetto, which shows nothing of it."""


@dataclass(frozen=True)
class Span:
    """Something that a worker does from `start` on, in seconds; what is told of it besides stands in `details`."""

    kind: str
    name: str
    start: float
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def end(self) -> float:
        """When it is over, in seconds."""
        return self.start + self.seconds


@dataclass(frozen=True, repr=False)
class Timeline:
    """The spans of each worker, by rank. `what` says where the times come from: "predicted" or "traced".

    A collective is *hidden* as far as its worker computes meanwhile, and *exposed* otherwise. ``a + b`` has the workers of both beside
    each other, each from its own beginning on.
    """

    what: str
    workers: Mapping[int, Sequence[Span]]
    left_out: int = 0
    """Workers that do the same as those that are here, and are not."""
    beside: tuple[Timeline, ...] = ()
    """Others that are shown beside it."""

    def total(self, function: str | None = None) -> float:
        """The seconds of all calls of a function, or of all functions, on the worker that takes longest."""
        calls = [[s.seconds for s in spans if s.kind == FUNCTION and function in (None, s.name)] for spans in self.workers.values()]
        return max(map(sum, calls), default=0.0)

    def exposed(self, rank: int) -> list[Span]:
        """The parts of the collectives of a worker during which it computes nothing."""
        busy = _joined((s.start, s.end) for s in self.workers[rank] if s.kind == COMPUTE)
        return [
            Span(_EXPOSED, s.name, start, end - start)
            for s in self.workers[rank]
            if s.kind == COLLECTIVE
            for start, end in _without((s.start, s.end), busy)
        ]

    def __add__(self, other: Timeline) -> Timeline:
        return Timeline(self.what, self.workers, self.left_out, (*self.beside, other))

    def __str__(self) -> str:
        lines: list[str] = []
        for part in (self, *self.beside):
            for rank, spans in part.workers.items():
                busy = {kind: sum(s.seconds for s in spans if s.kind == kind) for kind in (FUNCTION, COMPUTE, COLLECTIVE)}
                exposed = sum(s.seconds for s in part.exposed(rank))
                texts = [f"{name} {1e6 * busy[kind]:.1f} us" for name, kind in (("computes", COMPUTE), ("collectives", COLLECTIVE))]
                lines.append(
                    f"worker {rank}, {part.what}: {1e6 * busy[FUNCTION]:.1f} us, {', '.join(texts)} ({1e6 * exposed:.1f} us exposed)"
                )
            lines += [f"and {part.left_out} more that do the same"] if part.left_out else []
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Timeline of {len(self.workers) + self.left_out} workers, {self.what}: {1e6 * self.total():.1f} us>"

    def to_json(self) -> str:
        """Trace events, which Perfetto reads: a process a worker, with rows for functions, compute, collectives and what is exposed.

        Times are in microseconds, from the first span of each timeline on, to a nanosecond: Perfetto keeps no more, and drops what begins
        before the one before it ends.
        """
        parts = (self, *self.beside)
        events = [event for at, part in enumerate(parts) for event in part._events(at, len(parts))]
        return json.dumps({"displayTimeUnit": "ns", "traceEvents": events}, separators=(",", ":"))

    @door(path=checks.path)
    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json() + "\n")

    def _events(self, at: int, parts: int) -> Iterator[dict[str, Any]]:
        begin = min((s.start for spans in self.workers.values() for s in spans), default=0.0)
        for rank, spans in self.workers.items():
            process = 1 + rank * parts + at  # the same worker predicted and traced, one below the other
            name = f"worker {rank}, {self.what}" + (f" ({self.left_out} more do the same)" if self.left_out else "")
            yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}
            yield {"ph": "M", "pid": process, "name": "process_sort_index", "args": {"sort_index": process}}
            shown = [*spans, *self.exposed(rank)]
            for track, kind in enumerate(_TRACKS, _FIRST):
                if any(s.kind == kind for s in shown):
                    yield {"ph": "M", "pid": process, "tid": track, "name": "thread_name", "args": {"name": kind}}
            for s in shown:
                start, end = _nanoseconds(s.start - begin), _nanoseconds(s.end - begin)
                times = {"ts": start / 1000, "dur": (end - start) / 1000}
                yield {
                    "ph": "X",
                    "pid": process,
                    "tid": _FIRST + _TRACKS.index(s.kind),
                    "name": s.name,
                    "cat": s.kind,
                    **times,
                    "args": dict(s.details),
                }


def _nanoseconds(seconds: float) -> int:
    """A time as a whole number, the same for two that differ by what adding up rounds off."""
    return round(round(1e9 * seconds, 3))


def _joined(ranges: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Ranges that overlap, or follow each other, as one, in order."""
    made: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if made and start <= made[-1][1]:
            made[-1] = (made[-1][0], max(end, made[-1][1]))
        else:
            made.append((start, end))
    return made


def _without(whole: tuple[float, float], busy: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The parts of a range that none of these ranges, which are in order, covers."""
    start, stop = whole
    for first, last in busy:
        if first >= stop:
            break
        if first > start:
            yield start, first
        start = max(start, last)
    if start < stop:
        yield start, stop
