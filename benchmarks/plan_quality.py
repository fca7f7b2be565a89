"""What the plan of a whole Llama-2-70B asks for: collectives a layer, width of the search, planning time, distance from the optimum.

    python -m benchmarks.plan_quality [--quick]

The module has all functions of the example (prefill, decode, batched ones, embedding, cache), float16, and no annotation.
Bytes are those of the tensor that each worker brings: one token in decode, 64 tokens in prefill.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace

import tvm

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from examples.llm.report import size_text, table
from spmd import Mesh

MODEL = "llama-2-70b"
MESHES = (Mesh(tp=2), Mesh(tp=4), Mesh(tp=8), Mesh(dp=2, tp=4), Mesh(dp=2, tp=2, cp=2))


def module(layers: int) -> tvm.IRModule:
    """Llama-2-70B with so many layers, all functions, no weight allocated."""
    config = replace(LlamaConfig.preset(MODEL).with_dtype("float16"), num_hidden_layers=layers)
    return build_module(config)[0]


def counted(plan: spmd.Plan, function: str, layers: int) -> tuple[str, str]:
    """The collectives of each layer of `function`, and those besides."""
    groups = Counter((c.kind, c.bytes) for c in plan.collectives if c.function == function)
    each, besides = [], []
    for (kind, held), count in groups.items():
        times, rest = divmod(count, layers)
        each += [f"{times} {kind} of {size_text(held)}"] if times else []
        besides += [f"{rest} {kind} of {size_text(held)}"] if rest else []
    return ", ".join(each) or "none", ", ".join(besides) or "none"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 layers instead of 80")
    layers = 8 if parser.parse_args().quick else LlamaConfig.preset(MODEL).num_hidden_layers
    mod = module(layers)
    searches, collectives = [], []
    for mesh in MESHES:
        start = time.process_time()
        plan = spmd.plan(mod, mesh)
        taken = time.process_time() - start
        operators = sum(map(len, plan.choices.values()))
        replicated = sum(bool(c.replicated_because) for cs in plan.choices.values() for c in cs)
        searches.append(
            (str(mesh), str(operators), str(replicated), str(plan.width), f"{plan.gap:.2%}" if plan.gap else "0", f"{taken:.2f}")
        )
        collectives += [(str(mesh), f, *counted(plan, f, layers)) for f in ("decode", "prefill")]
    print(f"{MODEL}, {layers} layers, {len(plan.functions)} functions\n")
    print(table(("mesh", "operators", "without a rule", "width", "gap", "CPU seconds"), searches) + "\n")
    print(table(("mesh", "function", "each layer", "besides"), collectives))


if __name__ == "__main__":
    main()
