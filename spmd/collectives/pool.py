"""Threads that stay: one for each worker of this process, which runs what it is given with its communicator at hand."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import tvm_ffi
from tvm import relax

from .backend import Backend
from .carry import set_communicator
from .communicator import Endpoint
from .cores import CPU, compute_with
from .slots import CollectiveError, Slots

Task = Callable[[int], Any]  # takes the rank
_PATIENCE = 1.0  # seconds that a worker which is stuck is waited for at the end
_TURN = threading.Lock()
"""Held from when the slots of a program are named until a machine has looked them up: other programs use the same names."""
_GLANCE = 0.2  # seconds between looks at the clock and at Ctrl-C: a signal does not end every wait


class WorkerError(RuntimeError):
    """A worker failed: the first that did, by `rank`; its error, with its traceback, is the cause."""

    def __init__(self, rank: int, what: str, error: BaseException) -> None:
        self.rank = rank
        super().__init__(f"worker {rank} failed in {what}: {type(error).__name__}: {error}")


class Pool:
    """The workers of `backend` that live in this process, waiting for something to run."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.broken = ""  # why nothing runs any more
        self._outbox: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
        self._inboxes: dict[int, SimpleQueue[Task | None]] = {rank: SimpleQueue() for rank in backend.ranks}
        self._communicators: dict[int, Endpoint] = {}
        self._busy = threading.Lock()
        self._threads = [
            threading.Thread(
                target=_serve,
                args=(backend, rank, self._communicators, inbox, self._outbox),
                name=f"spmd-worker-{rank}",
                daemon=True,
            )
            for rank, inbox in self._inboxes.items()
        ]
        # also at the end of the program: a thread that Python kills inside of compiled code takes the process with it
        weakref.finalize(self, _dismiss, list(self._inboxes.values()), self._threads, _PATIENCE)
        for thread in self._threads:
            thread.start()
        try:
            self._collect("its start", lambda: None)
        except BaseException:
            self.close()
            raise

    def run(self, what: str, task: Task, facts: Sequence[str] = ()) -> list[Any]:
        """What ``task(rank)`` returns on each worker of this process, in the order of their ranks.

        Raises WorkerError, with all others released, if one fails; `what` names the task there. Workers in other processes are to do the
        same, with the same `facts`.
        """
        with self._busy:
            if self.broken:
                raise RuntimeError(f"{what} cannot run: {self.broken}")
            self.backend.agree(what, facts)
            self.backend.begin()
            return self._collect(what, lambda: [inbox.put(task) for inbox in self._inboxes.values()])

    def communicator(self, rank: int) -> Endpoint:
        """The end of worker `rank`, of this process."""
        return self._communicators[rank]

    def close(self) -> None:
        """Stop the threads; a second time does nothing."""
        if self.broken == "the workers are closed":
            return
        stuck, self.broken = self.broken, "the workers are closed"
        _dismiss(list(self._inboxes.values()), self._threads, _PATIENCE if stuck else self.backend.timeout)
        self.backend.close()

    def _collect(self, what: str, begin: Callable[[], object]) -> list[Any]:
        try:
            begin()
            results, errors = self._outcomes(what)
        except BaseException:  # Ctrl-C in the caller: let nobody run on
            self.broken = f"{what} was interrupted"
            for communicator in self._communicators.values():
                communicator.abort("was interrupted by the caller")
            raise
        if errors:
            # who was released because another failed says less than the other
            rank = min(errors, key=lambda r: (isinstance(errors[r], CollectiveError), r))
            raise WorkerError(rank, what, errors[rank]) from errors[rank]
        return [results[rank] for rank in self._inboxes]

    def _outcomes(self, what: str) -> tuple[dict[int, Any], dict[int, BaseException]]:
        results: dict[int, Any] = {}
        errors: dict[int, BaseException] = {}
        deadline = float("inf")
        while len(results) + len(errors) < len(self._inboxes):
            if time.monotonic() > deadline:
                absent = [str(rank) for rank in self._inboxes if rank not in results and rank not in errors]
                self.broken = f"worker {', '.join(absent)} did not come back from {what} after another failed"
                break
            try:
                rank, result, error = self._outbox.get(timeout=_GLANCE)
            except Empty:
                continue
            if error is None:
                results[rank] = result
            else:
                errors[rank] = error
                deadline = min(deadline, time.monotonic() + self.backend.timeout)
        return results, errors


def start_machines(pool: Pool, executable: Any, slots: Slots, facts: Sequence[str] = ()) -> dict[int, Any]:
    """A virtual machine for each worker of this process, by rank, all of the same executable, which finds there what carries its slots.

    Workers in other processes are to have the same `facts`. One machine after another, each in its worker's thread: they write to
    their executable when they start, and corrupt it together.
    """
    carriers = pool.backend.carriers(slots)

    def start(rank: int) -> Any:
        if pool.backend.device(rank).dlpack_device_type() == CPU:
            compute_with(pool.backend.threads)
        with _TURN:
            for name, function in carriers.items():
                tvm_ffi.register_global_func(name, function, override=True)
            return relax.VirtualMachine(executable, pool.backend.device(rank))

    return dict(zip(pool.backend.ranks, pool.run("its start", start, facts), strict=True))


def _serve(
    backend: Backend,
    rank: int,
    communicators: dict[int, Endpoint],
    inbox: SimpleQueue[Task | None],
    outbox: SimpleQueue[tuple[int, Any, BaseException | None]],
) -> None:
    """The life of a worker. It knows nothing of its pool, so that a pool that nobody holds can go."""
    try:
        communicator = communicators[rank] = backend.communicator(rank)
    except BaseException as error:
        outbox.put((rank, None, error))
        return
    outbox.put((rank, None, None))
    set_communicator(communicator)
    while (task := inbox.get()) is not None:
        communicator.begin()
        result, problem = None, None
        try:
            result = task(rank)
            communicator.finish()
        except BaseException as error:
            communicator.abort(f"failed with {type(error).__name__}: {error}")
            problem = error
        outbox.put((rank, result, problem))
        del task, result, problem  # hold no tensors while waiting for the next
    set_communicator(None)
    communicator.close()


def _dismiss(inboxes: list[SimpleQueue[Task | None]], threads: list[threading.Thread], patience: float) -> None:
    """Send the workers home, and wait `patience` seconds for each."""
    for inbox in inboxes:
        inbox.put(None)
    for thread in threads:
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(patience)
