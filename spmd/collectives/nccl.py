"""Workers as processes with a GPU each, whose collectives are NCCL's, or RCCL's. MPI starts them, and is asked at the ends of a run only.

A collective is put on the stream that TVM's kernels are on, at each call, and nobody waits for it before the end of the run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm.target import Target
from tvm.tirx.script import builder as T

from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh

from .communicator import Endpoint
from .native.communicators import Communicators, Library
from .native.nccl import NCCL, NUMBERS, RCCL, Vendor, devices, present
from .native.table import Table
from .processes import ProcessBackend, ProcessEndpoint

_SHARING = ("NCCL_MULTI_RANK_GPU_ENABLE", "NCCL_HOSTID")
"""Set by who wants several workers on one GPU, which NCCL refuses otherwise."""

_FROM_HOST = 1  # cudaMemcpyHostToDevice, and hip's


class NCCLBackend(ProcessBackend):
    """See `ProcessBackend`; `vendor` says whose GPUs they are."""

    name = "nccl"
    vendor: Vendor = NCCL

    def __init__(self, mesh: Mesh, timeout: float) -> None:
        self._library = self.load()
        super().__init__(mesh, timeout)
        self._number = self.place()
        self.use_device()
        self._comms: Communicators | None = None

    @property
    def table(self) -> Table:
        """See `ProcessBackend`."""
        return self.vendor.table

    @property
    def where(self) -> str:
        """What errors begin with."""
        return f"backend {self.name!r}"

    def load(self) -> Library:
        """The library of collectives."""
        return Library(self.vendor, self.where)

    def place(self) -> int:
        """The number of this process's device."""
        kind, rank, here = self.vendor.device, self.process.rank, list(self.process.guard.rows)
        by_device = sorted(here, key=lambda r: self.mesh.devices[r])
        wanted = self.mesh.devices[rank] if len(here) == self.mesh.size else by_device.index(rank)
        count = present(kind)
        if wanted >= count and not (count and any(name in os.environ for name in _SHARING)):
            what = f"worker {rank} is to run on {kind} device {wanted}, and TVM sees {count} on this host"
            raise ShardingError(self.where, what, "It takes one for each worker. python -m spmd doctor says what works here.")
        return wanted % count

    def use_device(self) -> None:
        """Make it the device of the calling thread: that of communicators made there, and of what carriers ask of the device itself."""
        if code := getattr(devices(self.vendor, self.where), self.vendor.set_device)(self._number):
            raise ShardingError(self.where, f"{self.vendor.set_device}({self._number}) gives error {code}")

    def device(self, rank: int) -> Any:
        """See `Backend`."""
        return tvm_ffi.device(self.vendor.device, self._number)

    def communicator(self, rank: int) -> Endpoint:
        """See `Backend`."""
        self.use_device()
        return NCCLEndpoint(self, rank)

    def accept(self, target: Target) -> None:
        """See `Backend`."""
        if target.kind.name != self.vendor.device:
            what = f"{self.where} runs on {self.vendor.device}, and the target is {target.kind.name!r}"
            raise ShardingError("workers", what, f'Pass target="{self.vendor.device}".')

    @property
    def library(self) -> str:
        """See `ProcessBackend`."""
        return str(self._library)

    @property
    def comms(self) -> Communicators:
        """All communicators: the first is made when the first program starts, by all processes together."""
        if self._comms is None:
            guard, share = self.process.guard, self.process.comm.bcast
            self._comms = Communicators(self._library, self.process.rank, self.mesh.size, share)
            guard.watched.append(self._comms)
        return self._comms

    def over(self, groups: Sequence[Sequence[int]]) -> int:
        """See `ProcessBackend`."""
        return self.comms.over(groups)

    def constants(self, comm: int) -> dict[str, Any]:
        """See `ProcessBackend`. The stream is asked for at each call: where a graph is captured, it is another one."""
        device = self.device(self.process.rank)
        stream = T.call_extern("handle", "TVMFFIEnvGetStream", T.int32(device.dlpack_device_type()), T.int32(device.index))
        return {"comm": T.reinterpret("handle", T.uint64(comm)), "stream": stream, "from_host": T.int32(_FROM_HOST)}

    def number(self, name: str) -> Any:
        """See `ProcessBackend`."""
        return T.int32(NUMBERS[name])

    def wait(self) -> None:
        """Until the device has done what it was given."""
        self.device(self.process.rank).sync()

    def close(self) -> None:
        """See `Backend`."""
        if (comms := self._comms) is not None:
            self._comms = None
            with self.process.guard.meeting("the end of the workers"):
                comms.close()
            self.process.guard.watched.remove(comms)


class RCCLBackend(NCCLBackend):
    """See `NCCLBackend`."""

    name = "rccl"
    vendor = RCCL


class NCCLEndpoint(ProcessEndpoint):
    """The worker of this process."""

    def __init__(self, backend: NCCLBackend, rank: int) -> None:
        super().__init__(backend, rank)
        self._nccl = backend

    def finish(self) -> None:
        """See `ProcessEndpoint`: a run ends when the device has ended it, which it cannot where others do not come to its collectives."""
        with self._process.guard.meeting("the end of its work on the device", on_device=True):
            self._nccl.wait()
        super().finish()
