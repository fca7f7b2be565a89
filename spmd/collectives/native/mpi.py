"""MPI as a table, and what a process has of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tvm_ffi
from mpi4py import MPI
from tvm.tirx.script import builder as T

from spmd.collectives.cores import processors, share
from spmd.collectives.slots import CollectiveError
from spmd.errors import ShardingError

from .board import ROW, Row, Trace, create, opened
from .guard import COMPILATION, Guard
from .shared import POSSIBLE, Window, size_of
from .table import Function, Table

TABLE = Table(
    name="MPI",
    functions={
        "all_reduce": [Function("MPI_Allreduce", "source target count type kind comm", pieces=True)],
        "all_gather": [Function("MPI_Allgather", "source count type target count type comm")],
        "reduce_scatter": [Function("MPI_Reduce_scatter_block", "source target part type kind comm")],
        "all_to_all": [Function("MPI_Alltoall", "source part type target part type comm")],
        "permute": [
            Function("memset", "target zero bytes", when="receives_nothing", gives="handle"),
            Function("MPI_Sendrecv", "source count type to tag target count type from tag comm status", pieces=True),
        ],
        "broadcast": [
            Function("memcpy", "target source bytes", when="sends", gives="handle"),
            Function("MPI_Bcast", "target count type root comm", pieces=True),
        ],
        "axis_index": [Function("memcpy", "target position bytes", gives="handle")],
    },
    types={
        "float32": "FLOAT",
        "float64": "DOUBLE",
        **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}_T" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    },
    kinds={"sum": "SUM", "prod": "PROD", "max": "MAX", "min": "MIN"},
    count="int32",
    most=1 << 30,
)


@dataclass(frozen=True)
class Group:
    """Processes that meet: their communicator, and the memory that they share where all are on one host."""

    comm: Any
    window: Window | None


class Process:
    """What this process has of MPI, made once: communicators by their groups, memory that its host shares, the guard."""

    def __init__(self) -> None:
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            what = "this MPI was started for one thread, and workers run in threads of their own"
            raise ShardingError("backend 'mpi'", what, "Leave mpi4py.rc as it is, or ask for MPI.THREAD_MULTIPLE.")
        self._library = _c_library()
        given_up = threading.Timer(COMPILATION, _give_up)  # until there is a guard
        given_up.daemon = True
        given_up.start()
        self.comm = MPI.COMM_WORLD.Dup()
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = int(self.comm.rank), int(self.comm.size)
        self.host = self.comm.Split_type(MPI.COMM_TYPE_SHARED, self.rank)
        self.trace = Trace()
        self.guard = Guard(self.rank, self._board(), self.size, lambda: MPI.COMM_WORLD.Abort(1))
        given_up.cancel()
        self.status = np.zeros(64, np.uint8)  # what MPI_Sendrecv writes
        self._made: dict[tuple[tuple[int, ...], ...], Group] = {}
        there = set[int]().union(*self.host.allgather(processors()))  # each process may be bound to one
        self.threads = share(1, min(len(processors()), len(there) // self.host.size))
        self._alone = self.host.size <= len(there)

    def _board(self) -> dict[int, Row]:
        """The rows of the processes of this host, by their ranks in all."""
        memory = _shared(self.host, self.host.size * ROW)
        if isinstance(memory, OSError):
            raise ShardingError("backend 'mpi'", f"this host has no shared memory left ({memory})", "Make room in /dev/shm.")
        return {rank: Row(memory, place) for place, rank in enumerate(self.host.allgather(self.rank))}

    def over(self, groups: Sequence[Sequence[int]]) -> Group:
        """The group of this process; each is made once, by all together."""
        key = tuple(map(tuple, groups))
        if key not in self._made:
            color = next(i for i, group in enumerate(key) if self.rank in group)
            comm = self.comm.Split(color, key[color].index(self.rank))
            comm.Set_errhandler(MPI.ERRORS_RETURN)
            self._made[key] = Group(comm, self._window(comm, key[color]))
        return self._made[key]

    def _window(self, comm: Any, group: Sequence[int]) -> Window | None:
        """None where it is of no use: for one process, on several hosts, or without room for it."""
        if not POSSIBLE or len(group) == 1 or not set(group) <= set(self.guard.rows):
            return None
        memory = _shared(comm, size_of(len(group)))
        if isinstance(memory, OSError):
            return None
        address = np.frombuffer(memory, np.uint8).ctypes.data
        window = Window(memory, address, len(group), group.index(self.rank), self._alone)

        def disagreed(place: int) -> None:
            raise CollectiveError(self.guard.disagreement(dict(zip(group, window.brought(place), strict=True))))

        tvm_ffi.register_global_func(window.disagreed, disagreed, override=True)
        return window

    def handle(self, thing: Any) -> Any:
        """What C calls it: a pointer, or an int where this MPI has those."""
        value = int(MPI._handleof(thing))  # pyright: ignore[reportPrivateUsage]
        if MPI._sizeof(thing) == 4:  # pyright: ignore[reportPrivateUsage] -- mpi4py gives it with its sign in 64 bits
            value &= 0xFFFFFFFF
            return T.int32(value - (1 << 32 if value >> 31 else 0))
        return T.int64(value)


def _give_up() -> None:
    text = f"spmd.collectives.CollectiveError: this process waited {COMPILATION:g} seconds for the others to come to spmd.workers"
    print(text, file=sys.stderr, flush=True)
    MPI.COMM_WORLD.Abort(1)


@cache
def process() -> Process:
    """What there is of this process."""
    return Process()


def _shared(comm: Any, size: int) -> mmap.mmap | OSError:
    """Memory of so many bytes that the processes of a communicator share, or why there is none; its file has no name any more."""
    path, memory = "", None
    if comm.rank == 0:
        try:
            path, memory = create(size)
        except OSError as error:
            memory = error
    path, error = comm.bcast((path, memory if isinstance(memory, OSError) else None))
    if error is not None:
        return error
    memory = opened(path, size) if memory is None else memory
    comm.Barrier()
    if comm.rank == 0:
        os.unlink(path)
    return memory


def _c_library() -> ctypes.CDLL:
    """The MPI that mpi4py has loaded, its symbols made global. One that is missing would kill the process when it is called."""
    with open("/proc/self/maps") as maps:
        loaded = sorted({line.split()[-1] for line in maps if ".so" in line and "/" in line})
    for path in loaded:
        if os.path.basename(path).startswith(("libmpi.so", "libmpich.so", "libmpi_abi.so", "libmpi.12.so")):
            library = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
            missing = [symbol for symbol in TABLE.symbols if not hasattr(library, symbol)]
            if missing:
                raise ShardingError("backend 'mpi'", f"{path} has no {', '.join(missing)}", "Use an MPI of version 3 or later.")
            return library
    raise ShardingError("backend 'mpi'", "the MPI that mpi4py has loaded is not found", "Use Open MPI, MPICH or Intel MPI on Linux.")
