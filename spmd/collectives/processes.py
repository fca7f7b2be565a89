"""Workers as processes that an MPI launcher has started, ``mpiexec -n 4 python script.py``, each with one worker.

Collectives are compiled (`native`): they call the functions of a C library, MPI itself or another, with the handles of this process.
Python talks to the others by MPI, at the start and the end of a run only. Works with any MPI that mpi4py works with.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
import tvm
from tvm.tirx.script import builder as T

from spmd.errors import ShardingError
from spmd.placement.layout import Array
from spmd.placement.mesh import Mesh

from .backend import Backend
from .communicator import Endpoint
from .native.board import ENDED, FAILED, MOST_AXES, STATUS
from .native.calls import Calls
from .native.carriers import carrier, compiled, position
from .native.guard import COMPILATION
from .native.mpi import process
from .native.table import Table
from .native.tir import Moves, at
from .slots import Call, CollectiveError, Record, Slot, Slots, records

Item = TypeVar("Item")


class ProcessBackend(Backend):
    """One worker, that of this process's rank. A subclass has the table of a C library, and what is to be told to its functions."""

    rows = True
    name: str
    """The name as users write it."""

    def __init__(self, mesh: Mesh, timeout: float) -> None:
        super().__init__(mesh, timeout)
        self.process = process()
        if self.process.size != mesh.size:
            what = f"{mesh} has {mesh.size} workers, and MPI has started {self.process.size}"
            raise ShardingError(f"backend {self.name!r}", what, f"python -m spmd run -n {mesh.size} script.py starts as many.")
        self.ranks = (self.process.rank,)
        self.started = False
        """Whether all have begun: until then one may load and compile longer than another."""
        self.slots = Slots()
        self._groups: dict[str, list[int]] = {}
        self._compared: set[str] = set()
        self._positions = np.arange(mesh.size, dtype=np.int64)  # carriers copy from here

    @property
    @abstractmethod
    def table(self) -> Table:
        """The functions of the C library."""

    @property
    @abstractmethod
    def library(self) -> str:
        """The C library and its version, which all processes are to have."""

    @abstractmethod
    def over(self, groups: Sequence[Sequence[int]]) -> Any:
        """The communicator of this process's group. All processes ask for the same ones, in the same order."""

    def compares(self, comm: Any) -> bool:
        """Whether what moves tensors over this communicator fails where not all came to the same; libraries do not."""
        return False

    @abstractmethod
    def constants(self, comm: Any) -> dict[str, Any]:
        """The arguments of C functions that are the same for all that this communicator does."""

    @abstractmethod
    def number(self, name: str) -> Any:
        """What the library calls one of its types or reductions, for C."""

    def communicator(self, rank: int) -> Endpoint:
        """See `Backend`."""
        return ProcessEndpoint(self, rank)

    def once(self, compiled: Callable[[], Any]) -> Any:
        """Compiled by one process of each host, loaded by the others; by each where this machine has no C compiler to link with."""
        host = self.process.host
        with self.process.guard.meeting("the compilation", patient=True):
            made, library, error = (None, None, None) if host.rank else _made(compiled)
            library, error = host.bcast((library, error))
        if error is not None:
            raise error
        if host.rank == 0:
            return made
        return _loaded(library) if library is not None else compiled()

    def carriers(self, slots: Slots) -> Mapping[str, Callable[..., None]]:
        """See `Backend`."""
        self.slots = slots
        axes = list(dict.fromkeys(slot.axis for slot in slots.slots))
        if len(axes) > MOST_AXES:
            what = f"the program communicates over {len(axes)} axes and joined axes"
            raise ShardingError(f"backend {self.name!r}", what, f"At most {MOST_AXES}.")
        rank, guard = self.process.rank, self.process.guard
        for slot in slots.slots:
            if not all(map(self.mesh.has, slot.axis.split("+"))) or self.mesh.axis_size(slot.axis) != slot.workers:
                what = f"spmd.{slot.operation} over mesh axis {slot.axis!r} of {slot.workers} workers: these workers are {self.mesh}"
                raise CollectiveError(f"{what}. Start workers with the program's mesh.")
        self.agree("the start of a program", [self.library, repr(self.mesh), repr(slots.slots), repr(slots.sites)])
        comms: dict[str, Any] = {}
        with guard.meeting("the start of a program"):
            for axis in axes:
                groups = self.mesh.groups(axis)
                self._groups[axis] = next(group for group in groups if rank in group)
                comms[axis] = self.over(groups)
        self._compared = {axis for axis, comm in comms.items() if self.compares(comm)}
        functions: dict[str, Any] = {}
        for slot in slots.slots:
            moves = self.moves(slot, comms[slot.axis])
            if slot.operation == "axis_index":
                functions[slot.name] = position(moves)
            else:
                functions[slot.name] = carrier(slot, axes.index(slot.axis), guard.row, self.process.trace, moves)
        return compiled(functions)

    def moves(self, slot: Slot, comm: Any) -> Moves:
        """What writes the TIR that moves the tensors of a slot, over the communicator of its axis: by default, calls of the library."""
        return Calls(slot, self.table, self._arguments(slot, comm))

    def _arguments(self, slot: Slot, comm: Any) -> list[dict[str, Any]]:
        """The arguments that no call changes, for each tensor of a slot; words that are not there say what is not called."""
        found: dict[str, Any] = {**self.constants(comm), "zero": T.int32(0)}
        me = self._groups[slot.axis].index(self.process.rank)
        if slot.operation == "axis_index":
            found["position"] = at(self._positions.ctypes.data + 8 * me)
        if slot.operation == "broadcast":
            found["root"] = T.int32(slot.root)
            found |= {"sends": T.int32(1)} if me == slot.root else {}
        if slot.operation == "permute":
            targets = dict(zip(slot.pairs[0::2], slot.pairs[1::2], strict=True))
            sources = {target: source for source, target in targets.items()}
            found |= {"to": T.int32(targets[me])} if me in targets else {}
            found |= {"from": T.int32(sources[me])} if me in sources else {"receives_nothing": T.int32(1)}
        types = [{"type": self.number(self.table.type_of(slot, dtype))} for dtype in slot.dtypes]
        kinds = [{"kind": self.number(self.table.kind_of(slot, dtype))} if slot.kind else {} for dtype in slot.dtypes]
        return [{**found, **type_, **kind} for type_, kind in zip(types, kinds, strict=True)]

    def agree(self, what: str, facts: Sequence[str] = ()) -> None:
        """See `Backend`."""
        guard = self.process.guard
        guard.timeout = self.timeout if self.started else max(self.timeout, COMPILATION)
        guard.slots, guard.groups = self.slots, {axis: self.mesh.groups(axis) for axis in self._groups}
        guard.axes, guard.compared = {axis: number for number, axis in enumerate(self._groups)}, self._compared
        guard.begin()  # before the meeting: who comes out of it finds nobody at the end of another run
        mine = f"{what} with {', '.join(facts)}" if facts else what
        digest = np.frombuffer(hashlib.blake2b(mine.encode(), digest_size=16).digest(), np.int64)
        everyone = np.empty((self.mesh.size, 2), np.int64)
        with guard.meeting(f"the start of {what}"):
            self.process.comm.Allgather(digest, everyone)
            if (everyone == everyone[0]).all():
                return
            texts = self.process.comm.allgather(mine)
        lines = [f"  worker {rank} is about to run {text[:400]}" for rank, text in enumerate(texts)]
        raise CollectiveError("\n".join(["workers disagree on what to run:", *lines]))

    def everyone(self, mine: list[Item]) -> list[Item]:
        """See `Backend`."""
        with self.process.guard.meeting("the result"):
            return self.process.comm.allgather(mine[0])


class ProcessEndpoint(Endpoint):
    """The worker of this process."""

    def __init__(self, backend: ProcessBackend, rank: int) -> None:
        super().__init__(backend.mesh, rank)
        self._backend, self._process = backend, backend.process
        self._thread = threading.get_ident()

    def begin(self) -> None:
        """See `Endpoint`."""
        self._process.trace.clear()

    def finish(self) -> None:
        """Meet all others at the end of the run: nobody's result is used unless all did the same."""
        self._process.guard.say(ENDED)
        rows = self._process.trace.rows()
        outcome = self._together(0, rows)
        if outcome[:, 0].any():
            texts = self._texts("")
            rank = next(r for r, text in enumerate(texts) if text)
            raise CollectiveError(f"worker {rank} {texts[rank]}")
        self._backend.started = True
        for number, axis in enumerate(self._axes()):
            for group in self.mesh.groups(axis):
                if len({int(outcome[rank, 1 + number]) for rank in group}) > 1:
                    what = f"workers {', '.join(map(str, group))} did not do the same collectives over mesh axis {axis!r}"
                    raise CollectiveError("\n".join([f"{what}: their results are of no use", *self._differences(axis, group)]))

    def abort(self, why: str) -> None:
        """Say so, and meet those who come to the end; where somebody waits in a collective, the guard ends all."""
        guard = self._process.guard
        if threading.get_ident() != self._thread:
            return guard.end_all(f"worker {self.rank} {why}")
        if int(guard.row.numbers[STATUS]) == ENDED:
            return  # it failed at the end of the run, as all did
        guard.say(FAILED, why)
        self._together(1, self._process.trace.rows()[:0])
        self._texts(why)

    def recorded(self) -> Callable[[], tuple[Record, ...]]:
        """See `Endpoint`."""
        slots, rows = self._backend.slots, self._process.trace.rows().copy()

        def read() -> tuple[Record, ...]:
            calls: list[Call] = []
            for site, place, rank, *sizes in rows.tolist():
                if place == 0:
                    calls.append((slots.of(site), slots.sites[site], []))
                if calls:  # the oldest that is kept may be in the middle of a bundle
                    calls[-1][2].append(sizes[:rank])
            return records(calls)

        return read

    def _differences(self, axis: str, group: Sequence[int]) -> list[str]:
        """The first collectives over an axis in which the workers of a group differ, in words. All workers do this together."""
        slots = self._backend.slots
        mine = [row for row in self._process.trace.rows().tolist() if slots.of(row[0]).axis == axis]
        with self._process.guard.meeting("the end of the run"):
            everyone = self._process.comm.allgather(mine)
        firsts = next(c for c in zip_longest(*(everyone[rank] for rank in group)) if any(c[0] != other for other in c))
        told = [slots.told(c[0], f"of shape {tuple(c[3 : 3 + c[2]])}") if c else "no more" for c in firsts]
        return [f"  worker {rank} did {text}" for rank, text in zip(group, told, strict=True)]

    def _axes(self) -> list[str]:
        return list(dict.fromkeys(slot.axis for slot in self._backend.slots.slots))

    def _together(self, failed: int, rows: Array) -> Array:
        """A row for each rank: whether it failed, and for each axis what stands for the collectives it did over it."""
        axes = self._axes()
        mine = np.zeros(1 + len(axes), np.int64)
        mine[0] = failed
        slots = self._backend.slots
        axis_of = np.array([axes.index(slots.of(site).axis) for site in range(len(slots.sites))], np.int64)
        for number in range(len(axes) if len(rows) else 0):
            done = rows[axis_of[rows[:, 0]] == number] if len(axes) > 1 else rows
            mine[1 + number] = np.frombuffer(hashlib.blake2b(done.tobytes(), digest_size=8).digest(), np.int64)[0]
        everyone = np.empty((self.mesh.size, len(mine)), np.int64)
        with self._process.guard.meeting("the end of the run"):
            self._process.comm.Allgather(mine, everyone)
        return everyone

    def _texts(self, mine: str) -> list[str]:
        with self._process.guard.meeting("the end of the run"):
            return self._process.comm.allgather(mine)


def _made(compile_it: Callable[[], Any]) -> tuple[Any, bytes | None, Exception | None]:
    """What a process compiles for its host: the executable, its library for the others, or the error that all are to have."""
    try:
        made = compile_it()
    except Exception as error:
        return None, None, error
    with tempfile.TemporaryDirectory(prefix="spmd-") as folder:
        path = os.path.join(folder, "program.so")
        try:
            made.export_library(path)
            with open(path, "rb") as file:
                return made, file.read(), None
        except Exception:  # no compiler to link with
            return made, None, None


def _loaded(library: bytes) -> Any:
    with tempfile.TemporaryDirectory(prefix="spmd-") as folder:
        path = os.path.join(folder, "program.so")
        with open(path, "wb") as file:
            file.write(library)
        return tvm.runtime.load_module(path)
