"""Collectives in shared memory, carried by threads that stand for the processes: every operation, in several sizes, one after the other."""

import mmap
import threading

import numpy as np
import pytest
import tvm

from spmd.collectives.native.board import ROW, Row, Trace
from spmd.collectives.native.carriers import carrier, compiled
from spmd.collectives.native.shared import POSSIBLE, Shared, Window, size_of
from spmd.collectives.slots import Slot
from tests.collectives.expected import expect

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="written for x86-64")
SIZES = (0, 1, 7, 16, 2049, 65_537, 150_001)  # none, less than a line, one meeting, parts of a place, several places


def slots(workers: int) -> dict[str, Slot]:
    """What is tried: one slot of each operation, and reductions of other types."""
    last = workers - 1
    made = [
        *(Slot("all_reduce", "tp", workers, dtype, kind) for kind, dtype in (("sum", "float32"), ("max", "int8"), ("min", "bool"))),
        Slot("all_reduce", "tp", workers, "float64", "prod"),
        Slot("reduce_scatter", "tp", workers, "int64", "sum", (0,)),
        Slot("all_gather", "tp", workers, "float16", dims=(0,)),
        Slot("all_to_all", "tp", workers, "uint8", dims=(0, 0)),
        Slot("broadcast", "tp", workers, "float32", root=last),
        Slot("permute", "tp", workers, "float32", pairs=(0, last, last, 0)),
    ]
    return {slot.name: slot for slot in made}


def made(slot: Slot, size: int, worker: int) -> np.ndarray:
    """What a worker brings: whole numbers, so that the order of a sum does not matter."""
    size *= slot.workers if slot.operation in ("reduce_scatter", "all_to_all") else 1
    return np.random.default_rng([size, worker]).integers(0, 3, size).astype(slot.dtype)


@pytest.mark.parametrize(("workers", "alone"), [(2, True), (3, False), (8, False)])
def test_every_operation(workers: int, alone: bool) -> None:
    memory, tried = mmap.mmap(-1, size_of(workers)), slots(workers)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    windows = [Window(memory, address, workers, me, alone) for me in range(workers)]
    rows, traces = mmap.mmap(-1, workers * ROW), [Trace() for _ in range(workers)]
    board = [Row(rows, me) for me in range(workers)]
    functions = compiled(
        {
            f"{name} {me}": carrier(slot, 0, board[me], traces[me], Shared(slot, windows[me]))
            for name, slot in tried.items()
            for me in range(workers)
        }
    )
    found: dict[tuple[str, int, int], np.ndarray] = {}

    def work(me: int) -> None:
        for size in SIZES:
            for site, (name, slot) in enumerate(tried.items()):
                x = made(slot, size, me)
                given = expect(slot.operation, [x] * workers, 0, slot.own)
                out = tvm.runtime.tensor(np.full(given.shape, 7, x.dtype))
                functions[f"{name} {me}"](site, tvm.runtime.tensor(x), out)
                found[name, size, me] = out.numpy()

    threads = [threading.Thread(target=work, args=(me,), daemon=True) for me in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120.0)
    for size in SIZES:
        for name, slot in tried.items():
            brought = [made(slot, size, me) for me in range(workers)]
            for me in range(workers):
                want = expect(slot.operation, brought, me, slot.own)
                np.testing.assert_array_equal(found[name, size, me], want, err_msg=f"{name}, {size} elements, worker {me} of {workers}")
    assert all(not row.waits for row in board)
