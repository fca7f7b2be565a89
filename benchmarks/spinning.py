"""A sum over processes in memory that they share, with nothing around it: what `benchmarks.collectives` compares with.

Each copies a chunk to its place, counts, spins until the others have counted as far, and adds up what all have. It is one compiled loop of
sums, with no library of collectives, no guard and no virtual machine: the least that such a sum costs.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T

LINE, CHUNK = 64, 1 << 16  # bytes between counts; float32 elements of a chunk
LANES = 16


def memory(comm: Any, size: int) -> np.ndarray:
    """So many bytes that the processes of a communicator share."""
    path = ""
    if comm.rank == 0:
        handle, path = tempfile.mkstemp(prefix="spmd-benchmark-", dir="/dev/shm")
        os.truncate(handle, size)
        os.close(handle)
    path = comm.bcast(path)
    with open(path, "r+b") as file:
        made = np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)
    comm.Barrier()
    if comm.rank == 0:
        os.unlink(path)
    return made


def summed(comm: Any, elements: int) -> Callable[[np.ndarray, np.ndarray, int], None]:
    """What adds up vectors of so many float32 over the processes, ``(source, target, times)``."""
    workers, me = comm.size, comm.rank
    chunk, place = min(CHUNK, elements), 2 * min(CHUNK, elements)
    shared = memory(comm, workers * (LINE + 4 * place))
    counts, places = shared[: workers * LINE].view(np.int64), shared[workers * LINE :].view(np.float32)
    rounds, lines = -(-elements // chunk), chunk // LANES
    assert elements % chunk == 0 and chunk % LANES == 0

    @T.prim_func(s_tir=True)
    def spinning(
        source: T.Buffer((elements,), "float32"),
        target: T.Buffer((elements,), "float32"),
        met: T.Buffer((workers * 8,), "int64"),
        held: T.Buffer((workers * place,), "float32"),
        times: T.int64,
    ):
        T.func_attr({"tirx.is_scheduled": True})
        for _ in T.serial(times):
            for part in T.serial(rounds):
                turn: T.let[T.int64] = T.floormod(met[me * 8], T.int64(2)) * T.int64(chunk)
                T.evaluate(
                    T.call_extern(
                        "handle", "memcpy", T.address_of(held[me * place + turn]), T.address_of(source[part * chunk]), T.uint64(4 * chunk)
                    )
                )
                T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse.sfence"))
                met[me * 8] = met[me * 8] + T.int64(1)
                T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse.sfence"))
                for other in T.serial(workers):
                    while met[other * 8] < met[me * 8]:
                        T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse2.pause"))
                T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse.sfence"))
                for line in T.serial(lines):
                    for lane in T.vectorized(LANES):
                        target[part * chunk + line * LANES + lane] = held[turn + line * LANES + lane]
                    for other in T.serial(workers - 1):
                        for lane in T.vectorized(LANES):
                            target[part * chunk + line * LANES + lane] = (
                                target[part * chunk + line * LANES + lane] + held[(other + 1) * place + turn + line * LANES + lane]
                            )

    cpu = tvm.get_global_func("target.llvm_get_system_cpu")()
    made = tvm.compile(tvm.IRModule({"main": spinning.with_attr("global_symbol", "main")}), {"kind": "llvm", "mcpu": cpu})["main"]
    counts, places = tvm.runtime.from_dlpack(counts), tvm.runtime.from_dlpack(places)
    return lambda source, target, times: made(source, target, counts, places, times)
