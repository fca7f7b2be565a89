"""A hardware profile of this machine: what its workers reach when all of them work at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import tvm
from tvm import relax

from spmd import checks
from spmd.checks import door
from spmd.collectives import all_reduce, bind, make_backend
from spmd.collectives.pool import Pool, start_machines
from spmd.costs.profile import Profile
from spmd.errors import ShardingError
from spmd.ir.builder import Builder
from spmd.placement.mesh import Mesh
from spmd.schedules import build

_SIZES = {"float32": 512, "float64": 512, "float16": 128}
"""Rows and columns of the matrices whose product is timed."""
_CHAIN = 64
_ELEMENTS = 1 << 22
"""Float32 numbers of one worker that are read and written, and added up over workers: beyond the caches of one core."""
_PARTS = len(_SIZES) + 4
_ROUNDS = 3
Task = Callable[[], object]


@door(workers=checks.whole(1), seconds=checks.number(), name=checks.text, backend=checks.text)
def measure(workers: int = 2, *, seconds: float = 10.0, name: str = "measured", backend: str = "threads") -> Profile:
    """Measure the CPUs of this machine, shared by so many simulated workers: products by dtype, memory, one operator, collectives.

    Each number is the best of a few rounds that take `seconds` together, after 2 to 5 seconds of compiling. Memory is that of the machine
    in equal parts. Save the profile with `Profile.save`; GPUs are not measured.
    """
    if workers < 2 or seconds <= 0:
        way_out = "A link needs two workers, and a measurement some time."
        raise ShardingError("measure", f"{workers} workers for {seconds:g} seconds", way_out)
    carrier = make_backend(backend, Mesh(tp=workers), 60.0)
    module, slots = bind(_module(workers), rows=carrier.rows)
    executable = carrier.once(lambda: build(module, "llvm"))
    pool = Pool(carrier)
    try:
        machines = start_machines(pool, executable, slots)

        def timed(what: str, make: Callable[[int], Task]) -> float:
            """Seconds of one call on the slowest worker, all of which make the same number of calls at once."""
            tasks = dict(zip(carrier.ranks, pool.run(f"measure {what}", make), strict=True))

            def once(count: int) -> float:
                return max(pool.run(f"measure {what}", lambda rank: _repeated(tasks[rank], count)))

            once(1)
            count = max(int(seconds / _PARTS / _ROUNDS / max(once(3), 1e-7)), 1)
            return min(once(count) for _ in range(_ROUNDS))

        def call(function: str, *shapes: tuple[int, ...], dtype: str = "float32") -> float:
            return timed(function, lambda rank: _call(machines[rank][function], carrier.device(rank), shapes, dtype))

        rates = {d: 2 * n**3 / call(f"product_{d}", (n, n), (n, n), dtype=d) for d, n in _SIZES.items()}
        moved = 2 * 4 * _ELEMENTS / call("copy", (_ELEMENTS,))
        kernel = call("chain", (2, 2)) / _CHAIN
        latency = call("all_reduce_1", (1,))
        sent = 2 * (workers - 1) / workers * 4 * _ELEMENTS
        bandwidth = sent / max(call(f"all_reduce_{_ELEMENTS}", (_ELEMENTS,)) - latency, 1e-9)
    finally:
        pool.close()
    others = {d: rate for d, rate in rates.items() if d != "float32"}
    source = f"spmd.measure() with {workers} workers on {os.cpu_count()} CPUs"
    return Profile(name, rates["float32"], moved, bandwidth, latency, kernel, _memory(workers), others, {}, source)


def _module(workers: int) -> tvm.IRModule:
    """A product for each dtype, a read and write of memory, small operators one after another, and a small and a large sum over workers."""
    builder = Builder()

    def add(name: str, params: list[Any], body: Callable[[], Any]) -> None:
        with builder.function(name, params):
            with builder.dataflow():
                result = builder.emit_output(body())
            builder.emit_func_output(result)

    for dtype, n in _SIZES.items():
        a, b = (relax.Var(v, relax.TensorType((n, n), dtype)) for v in "ab")
        add(f"product_{dtype}", [a, b], partial(relax.op.matmul, a, b))
    x = relax.Var("x", relax.TensorType((_ELEMENTS,), "float32"))
    add("copy", [x], partial(relax.op.negative, x))
    y = relax.Var("y", relax.TensorType((2, 2), "float32"))
    add("chain", [y], lambda: reduce(lambda now, _: builder.emit(relax.op.matmul(now, y)), range(_CHAIN), y))
    for elements in (1, _ELEMENTS):
        z = relax.Var("z", relax.TensorType((elements,), "float32"))
        add(f"all_reduce_{elements}", [z], partial(all_reduce, z, "tp", "sum", workers, "z"))
    return builder.finalize()


def _call(function: Any, device: Any, shapes: tuple[tuple[int, ...], ...], dtype: str) -> Task:
    args = [tvm.runtime.tensor(np.full(shape, 0.5, dtype), device) for shape in shapes]
    return lambda: function(*args)


def _repeated(task: Task, count: int) -> float:
    """Seconds of one of so many calls."""
    start = time.perf_counter()
    for _ in range(count):
        task()
    return (time.perf_counter() - start) / count


def _memory(workers: int) -> float | None:
    """What each worker may have of the memory of this machine."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return total / workers if total > 0 else None
