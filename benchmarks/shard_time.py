"""How long sharding takes beside compiling what it gives, and whether it grows with the number of layers.

    python -m benchmarks.shard_time [--quick]

Llama-2-70B with all functions of the example, float16, for 2 workers. `plan` and `lower` are the two halves of `spmd.shard`;
`compile` is `tvm.compile` of the sharded module for llvm, with TVM's default pipeline, right after it.
"""

from __future__ import annotations

import argparse
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
    """What `run` gives, and its seconds."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def row(layers: int, runs: int) -> tuple[str, ...]:
    """One line of the table; the best of `runs`, and one compilation."""
    mod = module(layers)
    plans = [timed(lambda: spmd.plan(mod, WORKERS)) for _ in range(runs)]
    plan, planning = min(plans, key=lambda found: found[1])
    lowering = min(timed(lambda: spmd.lower(mod, plan))[1] for _ in range(runs))
    sharded, both = min((timed(lambda: spmd.shard(mod, WORKERS)) for _ in range(runs)), key=lambda found: found[1])
    functions = sum(1 for cs in plan.choices.values() if len(cs) > layers)  # those that run the layers
    compiling = timed(lambda: tvm.compile(sharded.mod, "llvm"))[1]
    per_layer = f"{both / layers / functions * 1e3:.2f}"
    return str(layers), f"{planning:.2f}", f"{lowering:.2f}", f"{both:.2f}", per_layer, f"{compiling:.1f}", f"{both / compiling:.1%}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 10 layers instead of 80, once each")
    quick = parser.parse_args().quick
    row(1, 1)  # what is made once: TVM's kernels, caches
    rows = [row(layers, 1 if quick else 2) for layers in ((5, 10) if quick else (10, 20, 40, 80))]
    head = ("layers", "plan s", "lower s", "shard s", "ms a layer and function", "compile s", "shard / compile")
    print(table(head, rows))


if __name__ == "__main__":
    main()
