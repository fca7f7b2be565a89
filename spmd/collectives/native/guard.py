"""Who waits for whom, watched by a thread of each process: what cannot end any more is ended, with words, in all of them.

A process that waits in a C library can be told nothing. So the library's abort ends all processes as soon as one of those that
wait sees that it waits in vain: for one that failed or left, for one that does something else, or for too long.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from spmd.collectives.slots import Slots

from .board import AXES, BEGUN, COUNT, DONE, ENDING, FAILED, LEFT, MEETING, MET, ON_DEVICE, RUNS, SITE, STATUS, Row, described

_GLANCE = 0.1  # seconds between looks
COMPILATION = 1800.0
"""The most seconds that all wait while one compiles."""
_PATIENCE = 3.0  # seconds that the library's abort may take


class Watched(Protocol):
    """A library whose collectives go on when its functions have returned."""

    def problem(self) -> str:
        """What it reports, in words."""
        ...

    def abort(self) -> None:
        """End all that it does."""
        ...


class Guard:
    """The process of number `rank`, and what it sees of the others: `rows` has those of its host. `abort` ends all processes."""

    def __init__(self, rank: int, rows: Mapping[int, Row], size: int, abort: Callable[[], object]) -> None:
        self.rank, self.rows, self.size, self.abort = rank, rows, size, abort
        self.row = rows[rank]
        self.timeout = COMPILATION
        self.slots = Slots()
        self.groups: Mapping[str, Sequence[Sequence[int]]] = {}
        """The ranks that meet along each axis of the running program, by groups."""
        self.compared: Collection[str] = ()
        """The axes over which carriers see themselves who came to something else."""
        self.axes: Mapping[str, int] = {}
        """The number of each axis on the board."""
        self.watched: list[Watched] = []
        """What else may report that something went wrong, and has something to end."""
        self._ended = threading.Lock()
        self._hook = sys.excepthook
        sys.excepthook = self._excepted
        atexit.register(self._leave)
        threading.Thread(target=self._watch, name="spmd-guard", daemon=True).start()

    @contextmanager
    def meeting(self, what: str, patient: bool = False, on_device: bool = False) -> Generator[None]:
        """All processes are to come to `what`; `patient`: as long as one may compile for all; `on_device`: by all collectives before."""
        before, self.timeout = self.timeout, max(self.timeout, COMPILATION) if patient else self.timeout
        if self.row.numbers[STATUS] != FAILED:  # which the others are to read
            self.row.text = what
        self.row.numbers[SITE] = ON_DEVICE if on_device else MEETING
        self.row.numbers[MET] += 1
        self.row.numbers[BEGUN] += 1
        try:
            yield
        finally:
            self.row.numbers[DONE] = self.row.numbers[BEGUN]
            self.timeout = before

    def say(self, status: int, text: str = "") -> None:
        """Tell the others what this process does."""
        if text:
            self.row.text = text
        self.row.numbers[STATUS] = status

    def begin(self) -> None:
        """A run begins."""
        self.row.numbers[AXES:] = 0
        self.row.numbers[DONE] = self.row.numbers[BEGUN]  # of a run that failed in a collective
        self.say(RUNS)

    def end_all(self, why: str) -> None:
        """End every process: the first that comes here says why, on standard error."""
        if not self._ended.acquire(blocking=False):
            return
        if any(row.numbers[ENDING] for row in self.rows.values()):
            time.sleep(_PATIENCE)  # another one says why, and its abort ends this process, too
        else:
            self.row.numbers[ENDING] = 1
            lines = [f"  worker {rank} {self._state(rank)}" for rank in range(self.size)]
            sys.stdout.flush()
            print("\n".join([f"spmd.collectives.CollectiveError: {why}:", *lines]), file=sys.stderr, flush=True)
            time.sleep(_GLANCE)  # for launchers that forward what is written, and drop it when all ends
        threading.Thread(target=_kill, daemon=True).start()
        for watched in self.watched:
            watched.abort()
        self.abort()

    def disagreement(self, brought: Mapping[int, tuple[int, int]]) -> str:
        """What workers that met came to, by their ranks: the site, and the elements that each brought."""
        told = {rank: self._told(*what) for rank, what in brought.items()}
        axis = self.slots.of(brought[self.rank][0]).axis
        lines = [f"  worker {rank} is in {text}" for rank, text in told.items()]
        return "\n".join([f"workers disagree on a collective over mesh axis {axis!r}:", *lines])

    def _state(self, rank: int) -> str:
        return described(self.rows[rank], self._told) if rank in self.rows else "is on another host"

    def _told(self, site: int, count: int) -> str:
        if not 0 <= site < len(self.slots.sites):
            return f"collective {site} of another program"
        return self.slots.told(site, f"{count} elements of {self.slots.of(site).dtype}")

    def _watch(self) -> None:
        last, since, seen = -1, 0.0, ""
        while True:
            time.sleep(_GLANCE)
            if reported := next(filter(None, (watched.problem() for watched in tuple(self.watched))), ""):
                self.end_all(reported)
            begun = int(self.row.numbers[BEGUN])
            if begun == self.row.numbers[DONE] or begun != last:
                last, since, seen = begun, time.monotonic(), ""
                continue
            problem = self._problem(time.monotonic() - since)
            if problem and problem == seen and begun == self.row.numbers[BEGUN] != self.row.numbers[DONE]:
                self.end_all(problem)
            seen = problem  # said after a second look: what is seen while somebody writes is no news

    def _problem(self, waited: float) -> str:
        """Why this process waits in vain, as far as it sees."""
        site, mine = int(self.row.numbers[SITE]), self.row.numbers
        if site == MEETING:
            gone = [r for r, row in self.rows.items() if row.numbers[STATUS] == LEFT and row.numbers[MET] < mine[MET]]
            busy = ""
        elif site == ON_DEVICE:
            behind = {r: axis for axis in self.groups for r in self._group(axis, self.rank) if r in self.rows and self._is_behind(r, axis)}
            gone = [r for r in behind if self.rows[r].numbers[STATUS] != RUNS]
            busy = next(
                (f"workers disagree on how often to meet over mesh axis {a!r}" for r, a in behind.items() if self._waits_for_device(r)), ""
            )
        else:
            members, field = self._members(site), AXES + self.axes[self.slots.of(site).axis]
            rows = [(r, self.rows[r].numbers) for r in members]
            gone = [r for r, other in rows if other[STATUS] != RUNS and other[field] < mine[field]]  # who did this one may have gone on
            busy = self._disagreement(site, members) or ("workers wait for one another" if self._deadlocked() else "")
        if gone:
            return f"worker {gone[0]} {self._state(gone[0])} while worker {self.rank} waits for it"
        if busy:
            return busy
        return f"worker {self.rank} waited {self.timeout:g} seconds" if waited > self.timeout else ""

    def _is_behind(self, rank: int, axis: str) -> bool:
        """Whether it has come less often to an axis than this process."""
        field = AXES + self.axes[axis]
        return bool(self.rows[rank].numbers[field] < self.row.numbers[field])

    def _waits_for_device(self, rank: int) -> bool:
        return self.rows[rank].waits and self.rows[rank].numbers[SITE] == ON_DEVICE

    def _group(self, axis: str, rank: int) -> Sequence[int]:
        return next((group for group in self.groups.get(axis, ()) if rank in group), ())

    def _members(self, site: int) -> list[int]:
        return [r for r in self._group(self.slots.of(site).axis, self.rank) if r in self.rows and r != self.rank]

    def _deadlocked(self) -> bool:
        """Whether this process is in a collective with one that waits in another, and so on, until one of those waits for them."""
        waits = {r: self._awaited(r) for r, row in self.rows.items() if row.waits and 0 <= row.numbers[SITE] < len(self.slots.sites)}
        while free := [r for r, awaited in waits.items() if not waits.keys() & awaited]:
            for r in free:
                del waits[r]
        return self.rank in waits

    def _awaited(self, rank: int) -> set[int]:
        """Who came less often to the axis that a process is at."""
        numbers = self.rows[rank].numbers
        axis = self.slots.of(int(numbers[SITE])).axis
        field = AXES + self.axes[axis]
        return {r for r in self._group(axis, rank) if r in self.rows and self.rows[r].numbers[field] < numbers[field]}

    def _disagreement(self, site: int, members: Sequence[int]) -> str:
        """Members that came as often to the axis, but to something else."""
        axis = self.slots.of(site).axis
        if axis in self.compared:
            return ""
        field, mine = AXES + self.axes[axis], self.row.numbers
        for other in (self.rows[r].numbers for r in members):
            here = other[BEGUN] != other[DONE] and other[SITE] >= 0 and other[field] == mine[field]
            if here and self.slots.of(int(other[SITE])).axis == axis and (other[SITE] != mine[SITE] or other[COUNT] != mine[COUNT]):
                return f"workers disagree on a collective over mesh axis {axis!r}"
        return ""

    def _excepted(self, kind: type[BaseException], error: BaseException, trace: object) -> None:
        self._hook(kind, error, trace)  # pyright: ignore[reportArgumentType]
        why = f"failed with {kind.__name__}: {error}"
        self.say(FAILED, why)
        if self.size > 1:
            self.end_all(f"worker {self.rank} {why}")

    def _leave(self) -> None:
        self.say(LEFT, "left")


def _kill() -> None:
    """Where the library cannot end this process, the system does."""
    time.sleep(_PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)
