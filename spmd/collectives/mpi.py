"""Workers as processes whose collectives are MPI's, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from mpi4py import MPI
from tvm.tirx.script import builder as T

from spmd.errors import ShardingError

from .native.mpi import TABLE
from .native.table import Table
from .processes import ProcessBackend


class MPIBackend(ProcessBackend):
    """See `ProcessBackend`."""

    name = "mpi"

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
    def library(self) -> str:
        """See `ProcessBackend`."""
        return MPI.Get_library_version()

    def over(self, groups: Sequence[Sequence[int]]) -> Any:
        """See `ProcessBackend`."""
        return self.process.over(groups)

    def constants(self, comm: Any) -> dict[str, Any]:
        """See `ProcessBackend`. Who sends to nobody, or receives from nobody, says so."""
        nobody, status = T.int32(MPI.PROC_NULL), T.reinterpret("handle", T.uint64(self.process.status.ctypes.data))
        return {"comm": self.process.handle(comm), "to": nobody, "from": nobody, "tag": T.int32(0), "status": status}

    def number(self, name: str) -> Any:
        """See `ProcessBackend`."""
        return self.process.handle(getattr(MPI, name))
