"""A Llama of transformers through torch.export on meshes that refine one another: predicted time, and the time that planning takes.

    python -m benchmarks.refinement [--quick]

Hidden 1024, 16 heads, 8 of keys and values, FFN 2816, float32, 4 sequences of 256 tokens, as torch.export decomposes it; nothing is
annotated. A mesh that refines another one, as dp=2, tp=2 refines tp=4, has all of its plans, so that its time should never be higher.
CPU seconds are of `spmd.plan` alone, the better of two runs; a new process for each number of layers. It needs PyTorch and transformers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from typing import Any

import tvm

import spmd
from examples.llm.report import table
from spmd import Mesh

MESHES = (Mesh(dp=2), Mesh(tp=4), Mesh(dp=2, tp=2), Mesh(dp=2, tp=4))
COARSER = {"dp=2": (), "tp=4": (), "dp=2, tp=2": ("dp=2", "tp=4"), "dp=2, tp=4": ("dp=2", "tp=4")}
"""The meshes of which each has all plans: those that it refines, and those of which it has an axis, the other one unused."""


def exported(layers: int) -> tvm.IRModule:
    """The model with so many layers, its weights random."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config: Any = LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=8, vocab_size=8000
    )
    model = LlamaForCausalLM(config).eval()
    tokens = torch.zeros(4, 256, dtype=torch.long)
    return spmd.from_torch(model, kwargs={"input_ids": tokens, "use_cache": False}).mod


def rows(layers: int, runs: int, profile: str) -> list[tuple[str, ...]]:
    """The lines of one number of layers."""
    mod = exported(layers)
    found: list[tuple[str, ...]] = []
    times: dict[str, float] = {}
    for mesh in MESHES:
        taken: list[float] = []
        for _ in range(runs):
            start = time.process_time()
            plan = spmd.plan(mod, mesh, profile=profile)
            taken.append(time.process_time() - start)
        name = ", ".join(f"{axis}={size}" for axis, size in mesh.axes.items())
        times[name] = sum(plan.predicted.values())
        is_risen = any(times[name] > times[coarse] * (1 + 1e-9) for coarse in COARSER[name])
        operators = sum(map(len, plan.choices.values()))
        numbers = f"{times[name] * 1e3:.4f}", f"{plan.cost * 1e3:.4f}", f"{plan.gap:.2%}", "yes" if is_risen else "no", f"{min(taken):.2f}"
        found.append((str(layers), str(operators), name, *numbers))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 layers instead of 8 and 16, once")
    parser.add_argument("--profile", default="h100", help="the hardware (default: h100)")
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        each = [(2, 1)] if options.quick else [(8, 2), (16, 2)]
        found = [row for layers, runs in each for row in pool.apply(rows, (layers, runs, options.profile))]
    head = ("layers", "operators", "mesh", "predicted, ms", "cost, ms", "gap", "higher than on a coarser mesh", "CPU seconds")
    print(table(head, found))


if __name__ == "__main__":
    main()
