"""Workers as threads of one process: those of a mesh axis meet, the last to arrive computes for all.

Nothing is copied but results. Who waits sleeps on a lock of its own. A run that cannot complete is recognised when it
happens, not after a time: nobody is left to arrive, somebody disagrees, or somebody is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from spmd.errors import ShardingError
from spmd.placement.arrays import view
from spmd.placement.mesh import Mesh

from .backend import Backend
from .combine import COMBINE, Array
from .communicator import Communicator, Tensor
from .slots import CollectiveError


@dataclass(slots=True)
class _Call:
    """One worker's part of a meeting."""

    signature: tuple[Any, ...]  # op, axis, the op's own attributes, (value, shape, dtype) of each tensor: the same for all members
    xs: list[Array]
    outs: list[Array]

    def __str__(self) -> str:
        op, axis, own, *moved = self.signature
        what = " and ".join(f"{value!r}, {dtype} {list(shape)}," for value, shape, dtype in moved)
        return f"{op}({', '.join(map(repr, own))}) of {what} over axis {axis!r}"


class _Group:
    """The workers that meet over one axis, in order along it, and who of them has arrived."""

    def __init__(self, axis: str, ranks: list[int]) -> None:
        self.axis, self.ranks = axis, ranks
        self.arrived: dict[int, _Call] = {}


class ThreadBackend(Backend):
    """Every worker of the mesh, in this process."""

    def __init__(self, mesh: Mesh, timeout: float) -> None:
        super().__init__(mesh, timeout)
        self.groups: list[_Group] = []
        self._group_of: dict[tuple[str, int], _Group] = {}
        self.lock = threading.Lock()
        self.gates = [threading.Lock() for _ in range(mesh.size)]  # held, but when its worker may go on
        for gate in self.gates:
            gate.acquire()
        self.begin()

    def group(self, axis: str, rank: int) -> _Group:
        """The group of worker `rank` over `axis`, made when the first of the axis asks."""
        with self.lock:
            if (axis, rank) not in self._group_of:
                for ranks in self.mesh.groups(axis):
                    self.groups.append(_Group(axis, ranks))
                    self._group_of.update({(axis, member): self.groups[-1] for member in ranks})
            return self._group_of[axis, rank]

    def communicator(self, rank: int) -> Communicator:
        """The communicator of worker `rank`."""
        return ThreadCommunicator(self, rank)

    def accept(self, target: tvm.target.Target) -> None:
        """See `Backend`."""
        if "cpu" not in target.keys:
            what = f"backend 'threads' runs on the CPU, and the target is {target.kind.name!r}"
            raise ShardingError("workers", what, 'Pass target="llvm".')

    def view(self, tensor: Tensor) -> Array:
        """The memory of a worker's tensor."""
        return view(tensor)

    def begin(self) -> None:
        """Forget the last run."""
        self.failure: str | None = None
        self.waiting: dict[int, _Group] = {}
        self.stopped: dict[int, str] = {}
        for group in self.groups:
            group.arrived.clear()

    def meet(self, rank: int, group: _Group, call: _Call) -> None:
        """Take part in a collective of `group`: return when `call.out` is written, or raise CollectiveError."""
        with self.lock:
            if self.failure is not None:
                raise CollectiveError(self.failure)
            group.arrived[rank] = call
            last = len(group.arrived) == len(group.ranks)
            if not last:
                self.waiting[rank] = group
                self._check()
        if last:
            self._complete(rank, group)
        elif not self.gates[rank].acquire(timeout=self.timeout):
            with self.lock:
                if rank in self.waiting:
                    self._fail(f"worker {rank} waited {self.timeout:g} seconds")
            if not self.gates[rank].acquire(blocking=False):  # else opened by this worker, or by the last at that moment
                raise CollectiveError(f"worker {rank} waited {self.timeout:g} seconds in a run that is over")
        if self.failure is not None:
            raise CollectiveError(self.failure)

    def stop(self, rank: int, how: str, failed: bool) -> None:
        """Note that worker `rank` takes part in nothing more of this run; `how` is for errors."""
        with self.lock:
            self.stopped[rank] = how
            if failed:
                self._fail(f"worker {rank} {how}")
            else:
                self._check()

    def _complete(self, rank: int, group: _Group) -> None:
        calls = [group.arrived[member] for member in group.ranks]
        op, _, own, *_ = signature = calls[0].signature
        try:
            if all(call.signature == signature for call in calls):
                for i in range(len(calls[0].xs)):
                    COMBINE[op]([call.xs[i] for call in calls], [call.outs[i] for call in calls], *own)
                problem = None
            else:
                problem = f"workers disagree on a collective over mesh axis {group.axis!r}"
        except Exception as error:
            problem = f"{op} failed with {type(error).__name__}: {error}"
        with self.lock:
            if problem is not None:
                self._fail(problem)
            if self.failure is not None:
                return  # who waited has been released already
            group.arrived = {}
            for member in group.ranks:
                if member != rank:
                    del self.waiting[member]
                    self.gates[member].release()

    def _check(self) -> None:
        """Fail the run if someone waits for a worker that is gone, or all wait."""
        for rank, group in self.waiting.items():
            gone = [r for r in group.ranks if r in self.stopped and r not in group.arrived]
            if gone:
                return self._fail(f"worker {gone[0]} {self.stopped[gone[0]]} while worker {rank} waits for it")
        if self.waiting and len(self.waiting) + len(self.stopped) == self.mesh.size:
            self._fail("every worker waits for another")

    def _fail(self, why: str) -> None:
        if self.failure is None:
            lines = [f"  worker {rank} {self._state(rank)}" for rank in range(self.mesh.size)]
            self.failure = "\n".join([f"{why}:", *lines])
        for rank in self.waiting:
            self.gates[rank].release()
        self.waiting.clear()

    def _state(self, rank: int) -> str:
        if rank in self.stopped:
            return self.stopped[rank]
        for group in self.groups:
            if rank in group.arrived:
                absent = [str(r) for r in group.ranks if r not in group.arrived]
                return f"is in {group.arrived[rank]}" + (f", waiting for {', '.join(absent)}" if absent else "")
        return "runs"


class ThreadCommunicator(Communicator):
    """One thread's end: every operation is a meeting."""

    def __init__(self, backend: ThreadBackend, rank: int) -> None:
        super().__init__(backend.mesh, rank)
        self._backend = backend
        self._groups: dict[str, _Group] = {}

    def all_reduce(self, x: Tensor, axis: str, kind: str, value: str, out: Tensor) -> None:
        """See `Communicator`."""
        self._meet("all_reduce", [x], axis, (kind,), [value], [out])

    def all_gather(self, x: Tensor, axis: str, dim: int, value: str, out: Tensor) -> None:
        """See `Communicator`."""
        self._meet("all_gather", [x], axis, (dim,), [value], [out])

    def reduce_scatter(self, x: Tensor, axis: str, kind: str, dim: int, value: str, out: Tensor) -> None:
        """See `Communicator`."""
        self._meet("reduce_scatter", [x], axis, (kind, dim), [value], [out])

    def all_to_all(self, x: Tensor, axis: str, split_dim: int, concat_dim: int, value: str, out: Tensor) -> None:
        """See `Communicator`."""
        self._meet("all_to_all", [x], axis, (split_dim, concat_dim), [value], [out])

    def permute(self, x: Tensor, axis: str, pairs: Sequence[int], value: str, out: Tensor) -> None:
        """See `Communicator`."""
        self._meet("permute", [x], axis, (tuple(pairs),), [value], [out])

    def broadcast(self, x: Tensor, axis: str, root: int, value: str, out: Tensor) -> None:
        """See `Communicator`."""
        self._meet("broadcast", [x], axis, (root,), [value], [out])

    def abort(self, why: str) -> None:
        """See `Communicator`."""
        self._backend.stop(self.rank, why, failed=True)

    def finish(self) -> None:
        """See `Communicator`."""
        self._backend.stop(self.rank, "returned", failed=False)

    def bundle(self, kind: str, xs: Sequence[Tensor], axis: str, own: Sequence[Any], values: Sequence[str], outs: Sequence[Tensor]) -> None:
        """See `Communicator`: one meeting for all, unless a subclass has an operation of its own to do to each."""
        if getattr(type(self), kind) is not getattr(ThreadCommunicator, kind):
            return super().bundle(kind, xs, axis, own, values, outs)
        plain = tuple(a if isinstance(a, int | str) else tuple(a) for a in own)
        self._meet(kind, xs, axis, plain, values, outs)

    def _meet(self, op: str, xs: Sequence[Tensor], axis: str, own: tuple[Any, ...], values: Sequence[str], outs: Sequence[Tensor]) -> None:
        sources = [self._backend.view(x) for x in xs]
        moved = [(value, source.shape, source.dtype) for value, source in zip(values, sources, strict=True)]
        call = _Call((op, axis, own, *moved), sources, [self._backend.view(out) for out in outs])
        group = self._groups.get(axis)
        if group is None:
            group = self._groups[axis] = self._backend.group(axis, self.rank)
        self._backend.meet(self.rank, group, call)
