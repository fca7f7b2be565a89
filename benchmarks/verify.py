"""Proving whole programs: Llama-3.1-405B with all functions on 8 workers, and a training step of Llama-3-8B shapes on 8 x 8.

    python -m benchmarks.verify [--quick]

CPU seconds are of `spmd.verify` alone; memory is the most that the process needed, planning included; a new process for each line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from dataclasses import replace

import tvm

import spmd
from benchmarks.training_plan import training_step
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from examples.llm.report import table
from spmd import Mesh, P

MODEL = "llama-3.1-405b"


def inference(layers: int) -> tuple[tvm.IRModule, Mesh, dict[str, P]]:
    """The model with so many layers, and no annotation."""
    config = replace(LlamaConfig.preset(MODEL).with_dtype("float16"), num_hidden_layers=layers)
    return build_module(config)[0], Mesh(tp=8), {}


def training(layers: int) -> tuple[tvm.IRModule, Mesh, dict[str, P]]:
    """The adjoint of so many layers."""
    mod, specs = training_step(layers)
    return mod, Mesh(dp=8, tp=8, hosts=8), specs


def row(name: str, layers: int) -> tuple[str, ...]:
    """One line of the table."""
    mod, mesh, specs = (inference if name == MODEL else training)(layers)
    sharded = spmd.shard(mod, mesh, specs, profile="h100", memory=float("inf"))
    start = time.process_time()
    proof = spmd.verify(mod, sharded)
    taken, needed = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return name, str(layers), str(mesh), "proven" if proof else "undecided", f"{taken:.1f}", f"{needed:.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 layers of each")
    quick = parser.parse_args().quick
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = [pool.apply(row, (name, 2 if quick else layers)) for name, layers in ((MODEL, 126), ("training step, 8B", 32))]
    print(table(("program", "layers", "mesh", "result", "CPU seconds", "MB"), rows))


if __name__ == "__main__":
    main()
