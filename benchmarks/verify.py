"""What `spmd.verify` proves: large models with time and memory, then every row of the operator table, random programs and small models.

    python -m benchmarks.verify [large] [operators] [programs] [models] [--programs 300] [--seed 1000] [--strategies 2] [--quick]

CPU seconds are of `spmd.verify` alone; memory is the most that the process needed, planning included; a new process for each large model.
Everything else is counted: what is proven, what is undecided, with the reason, and alarms, all of which are false, as these programs are
right.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

import spmd
from benchmarks.training_plan import training_step
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from examples.llm.report import table
from examples.train.train import step_and_state
from spmd import Mesh, P
from spmd.costs.planning_sizes import symbols_of
from spmd.program.build import build_graph
from spmd.testing import oracle
from spmd.testing.alone import operators_alone
from spmd.testing.equivalence import FREE_LINKS
from tests.models.llama_block import with_gradients
from tests.models.mlc_llama import TINY, mlc_llama
from tests.operators import document
from tests.propagate.test_experts import layer
from tests.test_programs import drawn

MODEL = "llama-3.1-405b"
PARTS = ["large", "operators", "programs", "models"]


@dataclass
class Count:
    """What came of some programs, each by its name."""

    proven: list[str] = field(default_factory=list)
    related: list[str] = field(default_factory=list)
    """Those of which every function is proven by relations, at its own sizes."""
    undecided: dict[str, str] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, name: str, mod: tvm.IRModule, sharded: Any, **asked: Any) -> None:
        """Verify one more."""
        start = time.process_time()
        try:
            proof = spmd.verify(mod, sharded, **asked)
            if proof:
                self.proven.append(name)
                self.related += [name] if proof.relational == proof.functions else []
            else:
                self.undecided[name] = proof.undecided[0]
        except spmd.ShardingError as error:
            self.alarms[name] = str(error)
        self.seconds += time.process_time() - start

    def show(self, what: str) -> None:
        """Print a line of the table, and what is not proven."""
        print(
            what,
            *(len(part) for part in (self.proven, self.related, self.undecided, self.alarms)),
            f"{self.seconds:.0f}",
            sep="  ",
            flush=True,
        )
        for kind, texts in (("undecided", self.undecided), ("alarm", self.alarms)):
            for name, text in texts.items():
                print(f"    {kind}: {name}: {text}", flush=True)


def inference(layers: int) -> tuple[tvm.IRModule, Mesh, dict[str, P]]:
    """The model with so many layers, and no annotation."""
    config = replace(LlamaConfig.preset(MODEL).with_dtype("float16"), num_hidden_layers=layers)
    return build_module(config)[0], Mesh(tp=8), {}


def training(layers: int) -> tuple[tvm.IRModule, Mesh, dict[str, P]]:
    """The adjoint of so many layers."""
    mod, specs = training_step(layers)
    return mod, Mesh(dp=8, tp=8, hosts=8), specs


def row(name: str, layers: int) -> tuple[str, ...]:
    """One large model."""
    mod, mesh, specs = (inference if name == MODEL else training)(layers)
    sharded = spmd.shard(mod, mesh, specs, profile="h100", memory=float("inf"))
    start = time.process_time()
    proof = spmd.verify(mod, sharded)
    taken, needed = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return name, str(layers), str(mesh), "proven" if proof else "undecided", f"{taken:.1f}", f"{needed:.0f}"


def operators(most: int) -> tuple[Count, Count]:
    """Some strategies of every row on 2 workers; and operators, each proven where it is in all of its rows."""
    rows, every = Count(), Count()
    reasons: dict[str, list[str]] = defaultdict(list)
    unrelated: set[str] = set()
    mesh = Mesh(tp=2)
    for name in document.families():
        family = importlib.import_module(f"tests.operators.{name}")
        with getattr(family, "meaning", nullcontext)():
            mod, _ = operators_alone(family.MODULE)
            graph = build_graph(mod, None)
            for function in graph.functions.values():
                node = oracle.operator_of(function)
                strategies = oracle.strategies_of(graph, node, mesh)[-most:]
                trials = {f"{function.name}__{i}": (function, strategy) for i, strategy in enumerate(strategies)}
                program = oracle.lowered(graph, trials, mesh, {})
                if not trials:
                    continue
                own = {var: f for var, f in mod.functions.items() if not isinstance(f, relax.Function)}
                source = {var.name_hint: f for var, f in mod.functions.items()}[function.name]
                given = family.ARGUMENTS.get(function.name, ())
                arrays = {
                    p.name: value for p, value in zip(source.params, given, strict=False) if isinstance(value, np.ndarray | np.generic)
                }
                own |= {tvm.ir.GlobalVar(trial): source.with_attr("global_symbol", trial) for trial in program.plan.functions}
                told = {f"{trial}.{p}": value for trial in program.plan.functions for p, value in arrays.items()}
                rows.add(f"{name}.{function.name}", tvm.IRModule(own), program, arguments=told)
                said = [*rows.undecided.items(), *rows.alarms.items()]
                unrelated |= {document.operator_of(node)} if f"{name}.{function.name}" not in rows.related else set[str]()
                reasons[document.operator_of(node)] += [text for at, text in said if at == f"{name}.{function.name}"]
    every.proven = [op for op, texts in reasons.items() if not texts]
    every.related = [op for op in every.proven if op not in unrelated]
    every.undecided = {op: texts[0] for op, texts in reasons.items() if texts and texts[0] not in rows.alarms.values()}
    every.alarms = {op: texts[0] for op, texts in reasons.items() if texts and texts[0] in rows.alarms.values()}
    return rows, every


def programs(count: int, seed: int) -> Count:
    """Random programs, with a line after each 250."""
    found = Count()
    for first in range(0, count, 50):
        if first and first % 250 == 0:
            found.show(f"random programs, the first {first}")
        for i, case in enumerate(drawn(seed + first, min(50, count - first))):
            known = symbols_of(case.mod)
            sizes = {n: size for n, size in case.sizes.items() if n in known}
            divisible = {n: by for n, by in case.divisible.items() if n in sizes}
            made = spmd.shard(case.mod, case.mesh, case.specs, profile=FREE_LINKS, sizes=sizes, divisible=divisible, lift=case.lift)
            found.add(f"program {i} of seed {seed + first}", case.mod, made, sizes=sizes)
    return found


def models() -> Iterator[tuple[str, tvm.IRModule, Any, dict[str, Any]]]:
    """Small models, each with its plan: name, module, sharded, and what `verify` is asked besides."""
    for quantization, what in (("q0f16", "Llama of MLC-LLM, float16"), ("q4f16_1", "Llama of MLC-LLM, 4 bits")):
        mod, _ = mlc_llama(TINY, quantization, symbolic_vocab=False)
        yield what, mod, spmd.shard(mod, 2, spmd.presets.megatron(mod, "tp"), profile=FREE_LINKS), {}
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=50, head_dim=16
    )
    mod = build_module(config)[0]
    yield "examples/llm, all functions", mod, spmd.shard(mod, 2, spmd.presets.megatron(mod, "tp"), profile=FREE_LINKS), {}
    mod, _ = step_and_state()
    yield "examples/train, a step with Adam", mod, spmd.shard(mod, 2, profile=FREE_LINKS), {}
    mod = with_gradients(2)
    yield "Llama blocks with gradients", mod, spmd.shard(mod, Mesh(dp=2, tp=2), profile=FREE_LINKS), {}
    mod = layer(False, experts=3, hidden=16, features=32, rows=6, dtype="float32")
    specs = {"up_weight": P(None, ("tp", 32, 32), None)}
    yield (
        "a layer of experts",
        mod,
        spmd.shard(mod, 2, specs, profile=FREE_LINKS),
        {"arguments": {"main.indptr": np.array([0, 2, 5, 6], "int32")}},
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=PARTS, help="which tables to make; all, if none is named")
    parser.add_argument("--programs", type=int, default=300, help="random programs")
    parser.add_argument("--seed", type=int, default=1000, help="where random programs begin")
    parser.add_argument("--strategies", type=int, default=2, help="strategies of each row of the operator table")
    parser.add_argument("--quick", action="store_true", help="2 layers of each large model, and 10 random programs")
    told = parser.parse_args()
    if "large" in told.parts:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rows = [pool.apply(row, (name, 2 if told.quick else layers)) for name, layers in ((MODEL, 126), ("training step, 8B", 32))]
        print(table(("program", "layers", "mesh", "result", "CPU seconds", "MB"), rows), flush=True)
    print("what  proven  by relations  undecided  alarms  CPU seconds", flush=True)
    if "operators" in told.parts:
        by_row, by_operator = operators(told.strategies)
        by_row.show("rows of the operator table")
        by_operator.show("operators, all of whose rows")
    if "programs" in told.parts:
        programs(10 if told.quick else told.programs, told.seed).show("random programs")
    if "models" in told.parts:
        small = Count()
        for name, mod, sharded, asked in models():
            small.add(name, mod, sharded, **asked)
        small.show("models")


if __name__ == "__main__":
    main()
