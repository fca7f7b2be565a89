"""Workers as processes whose collectives are MPI's, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from mpi4py import MPI
from tvm.tirx.script import builder as T

from spmd.errors import ShardingError

from .native.mpi import TABLE, Group
from .native.shared import Shared
from .native.table import Table
from .native.tir import Moves
from .processes import ProcessBackend
from .slots import Slot


class MPIBackend(ProcessBackend):
    """See `ProcessBackend`."""

    name = "mpi"
    shares = True
    """Whether processes of one host meet in memory that they share, as far as they can."""

    @property
    def table(self) -> Table:
        """See `ProcessBackend`."""
        return TABLE

    def accept(self, target: tvm.target.Target) -> None:
        """See `Backend`."""
        if "cpu" not in target.keys:
            what = f"backend 'mpi' runs on the CPU, and the target is {target.kind.name!r}"
            raise ShardingError("workers", what, 'Pass target="llvm".')

    @property
    def threads(self) -> int:
        """See `Backend`."""
        return self.process.threads

    @property
    def library(self) -> str:
        """See `ProcessBackend`."""
        return MPI.Get_library_version()

    def over(self, groups: Sequence[Sequence[int]]) -> Group:
        """See `ProcessBackend`."""
        return self.process.over(groups)

    def moves(self, slot: Slot, comm: Group) -> Moves:
        """See `ProcessBackend`. Processes of one host need no MPI for it."""
        if self.shares and comm.window is not None and slot.operation != "axis_index":
            return Shared(slot, comm.window)
        return super().moves(slot, comm)

    def compares(self, comm: Group) -> bool:
        """See `ProcessBackend`."""
        return self.shares and comm.window is not None

    def constants(self, comm: Group) -> dict[str, Any]:
        """See `ProcessBackend`. Who sends to nobody, or receives from nobody, says so."""
        nobody, status = T.int32(MPI.PROC_NULL), T.reinterpret("handle", T.uint64(self.process.status.ctypes.data))
        return {"comm": self.process.handle(comm.comm), "to": nobody, "from": nobody, "tag": T.int32(0), "status": status}

    def number(self, name: str) -> Any:
        """See `ProcessBackend`."""
        return self.process.handle(getattr(MPI, name))
