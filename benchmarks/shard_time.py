"""How long sharding takes beside compiling what it gives, and whether it grows with the number of layers.

    python -m benchmarks.shard_time [--quick]

Llama-2-70B with all functions of the example, float16, for 2 workers. `first` is `spmd.shard` of a module not seen before, with the
kernels of its KV cache, half a second; `again` is the best of the runs after it, and `plan` the best of its first half alone.
`compile` is `tvm.compile` of the sharded module for llvm, with TVM's default pipeline, once. CPU seconds; a new process for each line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import TypeVar

import tvm

import spmd
from benchmarks.plan_quality import module
from examples.llm.report import table

T = TypeVar("T")
WORKERS = 2


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What `run` gives, and its CPU seconds, to which other work on the machine adds little."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def row(layers: int, runs: int) -> tuple[str, ...]:
    """One line of the table."""
    spmd.shard(module(1), WORKERS)  # what every process pays once
    mod = module(layers)
    sharded, first = timed(lambda: spmd.shard(mod, WORKERS))
    again = min(timed(lambda: spmd.shard(mod, WORKERS))[1] for _ in range(runs))
    planning = min(timed(lambda: spmd.plan(mod, WORKERS))[1] for _ in range(runs))
    functions = sum(1 for choices in sharded.plan.choices.values() if len(choices) > layers)  # those that run the layers
    compiling = timed(lambda: tvm.compile(sharded.mod, "llvm"))[1]
    per_layer = f"{again / layers / functions * 1e3:.2f}"
    return str(layers), f"{first:.2f}", f"{again:.2f}", f"{planning:.2f}", per_layer, f"{compiling:.1f}", f"{compiling / first:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 10 layers instead of 80, once each")
    quick = parser.parse_args().quick
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = [pool.apply(row, (layers, 1 if quick else 2)) for layers in ((5, 10) if quick else (10, 20, 40, 80))]
    head = ("layers", "first", "again", "plan", "again: ms a layer and function", "compile", "compile / first")
    print(table(head, rows))


if __name__ == "__main__":
    main()
