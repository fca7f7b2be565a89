"""All-reduces of float32 between processes of this machine: those of compiled programs, and what others do.

    python -m benchmarks.collectives [--quick] [--workers 2]

`spmd` is `workers(backend="mpi")`: a chain of sums in two lengths, and of what one more takes the difference, divided. `bare` is a sum in
shared memory and nothing else (`spinning.py`), some in one compiled loop, where each worker has a processor. The others are called in a
loop: MPI by mpi4py, gloo by torch.distributed (left out where PyTorch is not installed), `memcpy` by NumPy on each worker. They take turns
in the same processes, some sums at a time: of many rounds, the best tenth are those in which nothing else had the processors.
Microseconds of the slowest worker.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

import spmd
from benchmarks.spinning import summed
from examples.llm.report import size_text, table

WORKERS = (2, 4)
BYTES = tuple(4 << n for n in range(10, 25, 2))
QUICK = (4 << 10, 64 << 10, 1 << 20)
ROUNDS, SECONDS = 9, 12.0
"""At least so many rounds of a size, and more for so long."""
Seconds = Callable[[], float]


def count_of(size: int) -> int:
    """How many in a row: few where they take long, as what is short is seldom interrupted, and enough to be told from the rest of a run."""
    return 128 if size <= 64 << 10 else 16 if size <= 1 << 20 else 4 if size <= 16 << 20 else 1


def program(workers: int, size: int) -> spmd.ShardedModule:
    """Functions of a replicated vector of so many bytes: `short` and `long` chains of sums over the workers."""
    builder, elements = relax.BlockBuilder(), size // 4
    for name in ("short", "long"):
        with builder.function(name, [x := relax.Var("x", relax.TensorType((elements,), "float32"))]):
            with builder.dataflow():
                y = builder.emit_output(relax.op.negative(x))
            builder.emit_func_output(y)
    whole = spmd.shard(builder.get(), workers, {"*.x": spmd.P(None)})
    return dataclasses.replace(whole, mod=chains(workers, elements, count_of(size)))


def chains(workers: int, elements: int, count: int) -> tvm.IRModule:
    """The functions as each worker is to run them: of `count` sums, and of three times as many."""
    builder = relax.BlockBuilder()
    for name, length in (("short", count), ("long", 3 * count)):
        with builder.function(name, [x := relax.Var("x", relax.TensorType((elements,), "float32"))]):
            with builder.dataflow():
                y = x
                for _ in range(length):
                    y = builder.emit(spmd.collectives.all_reduce(y, "tp", "sum", workers, "x"))
                out = builder.emit_output(y)
            builder.emit_func_output(out)
    return builder.get()


def undisturbed(times: Sequence[float]) -> float:
    """The time of the rounds in which nothing else had the processors: the longest of the best tenth."""
    return sorted(times)[len(times) // 10]


def looped(call: Callable[[], object], count: int) -> Seconds:
    """Seconds of one call, of so many in a row."""

    def seconds() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begin) / count

    return seconds


def chain(running: Any, name: str, size: int) -> Seconds:
    """Seconds of a chain of sums, behind another one: who waited before it must not sleep yet, nor its memory be cold."""
    x = running[name](np.zeros(size // 4, np.float32), keep=True)
    once = looped(lambda: running[name](x, keep=True), 1)

    def seconds() -> float:
        once()
        return once()

    return seconds


def bare(comm: Any, source: np.ndarray, target: np.ndarray) -> Seconds:
    """Seconds of a bare sum in shared memory, of some in a compiled loop."""
    call, count = summed(comm, len(source)), count_of(source.nbytes)
    given = tvm.runtime.tensor(source), tvm.runtime.tensor(target)
    call_them = looped(lambda: call(*given, count), 1)
    return lambda: call_them() / count


class Gloo:
    """All-reduces of torch.distributed by gloo."""

    def __init__(self, rank: int, workers: int, path: str) -> None:
        import torch
        import torch.distributed

        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=workers)
        self._torch = torch

    def of(self, size: int) -> Callable[[], object]:
        """What adds up so many bytes."""
        tensor = self._torch.zeros(size // 4)
        return lambda: self._torch.distributed.all_reduce(tensor)

    def ended(self) -> None:
        """End gloo's threads, which must not outlive Python."""
        self._torch.distributed.destroy_process_group()


def measure(sizes: tuple[int, ...], path: str) -> None:
    """One worker of a launched run: the first prints a line of JSON for each size, microseconds by what was measured."""
    from mpi4py import MPI

    logging.getLogger("spmd").setLevel(logging.ERROR)  # that nothing is split is meant
    comm = MPI.COMM_WORLD
    by_gloo = Gloo(comm.rank, comm.size, path) if importlib.util.find_spec("torch") else None
    for size in sizes:
        source, target = np.zeros(size // 4, np.float32), np.empty(size // 4, np.float32)
        with spmd.workers(program(comm.size, size), backend="mpi", timeout=300.0) as running:
            takes: dict[str, Seconds] = {
                **{name: chain(running, name, size) for name in ("short", "long")},
                "MPI": looped(lambda: comm.Allreduce(source, target), count_of(size)),  # noqa: B023 -- called in this round
                **({"bare": bare(comm, source, target)} if comm.size <= len(os.sched_getaffinity(0)) else {}),
                "memcpy": looped(lambda: np.copyto(target, source), count_of(size)),  # noqa: B023
            }
            if by_gloo is not None:
                takes["gloo"] = looped(by_gloo.of(size), 3)
            taken: dict[str, list[float]] = {name: [] for name in takes}
            begin, rounds = time.monotonic(), 0
            while comm.bcast(rounds < ROUNDS or time.monotonic() - begin < SECONDS):
                rounds += 1
                for name, seconds in takes.items():
                    comm.Barrier()
                    taken[name].append(comm.allreduce(seconds(), MPI.MAX))
        best = {name: undisturbed(times) for name, times in taken.items()}
        one = (best.pop("long") - best.pop("short")) / (2 * count_of(size))
        best |= {"spmd": one} if one > 0 else {}  # else no round was free of other work
        if comm.rank == 0:
            print(json.dumps({"bytes": size, **{name: 1e6 * value for name, value in best.items()}}), flush=True)
    if by_gloo is not None:
        by_gloo.ended()


def started(workers: int, quick: bool) -> list[dict[str, float]]:
    """What the first of so many processes measured."""
    with tempfile.TemporaryDirectory() as folder:
        script = ["-m", "benchmarks.collectives", "--measure", f"{folder}/gloo", *(["--quick"] if quick else [])]
        command = [sys.executable, "-m", "spmd", "run", "-n", str(workers), *script]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def rows_of(measured: list[dict[str, float]]) -> list[list[str]]:
    """The lines of a table, of one number of workers."""
    return [
        [
            size_text(int(line["bytes"])),
            *(f"{line[name]:,.1f}" if name in line else "" for name in ("spmd", "MPI", "bare", "gloo", "memcpy")),
            f"{line['spmd'] / min(line['MPI'], line.get('bare', line['MPI'])):.2f}" if "spmd" in line else "",
            f"{line['gloo'] / line['spmd']:.1f}" if {"gloo", "spmd"} <= line.keys() else "",
        ]
        for line in measured
    ]


def main() -> None:
    """Print a table for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 sizes")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(QUICK if options.quick else BYTES, options.measure)
        return
    for workers in options.workers:
        print(f"{workers} workers, µs of an all-reduce")
        head = ["bytes", "spmd", "MPI", "bare", "gloo", "memcpy", "spmd / best", "gloo / spmd"]
        print(table(head, rows_of(started(workers, options.quick))))


if __name__ == "__main__":
    main()
