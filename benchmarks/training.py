"""Training the character model on several workers beside one: 200 steps with Adam, the largest difference of a loss, and what is sent.

    python -m benchmarks.training [--quick]

What is sent a step is the sum over its collectives of the bytes that each worker brings. Beside it is what the planner sends where links
are what counts, and what one writes by hand: data parallelism sums each gradient, fully sharded training gathers each weight and scatters
each sum of gradients, tensor parallelism sums the results of attention and of the feed-forward layer, forward and backward.

The second table is of memory: what a worker holds when it holds the most, as the plan has it, with weights and moments donated, and with
less memory than that, so that activations are made again.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import spmd
from examples.llm.report import table
from examples.train.train import BATCH, LENGTH, PRESETS, PROFILE, WIDTH, losses, step_and_state
from spmd import Mesh

RUNS = (
    ("data_parallel", Mesh(dp=2)),
    ("megatron", Mesh(tp=2)),
    ("fsdp", Mesh(dp=2)),
    ("data_parallel+megatron", Mesh(dp=2, tp=2)),
    ("fsdp+megatron", Mesh(dp=2, tp=2)),
)
LEAN = (("", Mesh(tp=1)), *RUNS[:4])
SHARES = (0.75, 0.6)
LINKS = spmd.Profile("links", flops=1e13, memory_bandwidth=1e12, link_bandwidth=1e8, link_latency=1e-6)
"""Workers to whom sending takes far longer than anything else."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 steps instead of 200")
    steps = 20 if parser.parse_args().quick else 200
    mod, state = step_and_state()
    alone = list(islice(losses(spmd.shard(mod, 1, profile=PROFILE), state), steps))
    weights = sum(array.nbytes for name, array in state.items() if not name.endswith((".0", ".1", ".2")))
    print(f"unsharded: loss {alone[0]:.3f} at first, {alone[-1]:.3f} after {steps} steps; weights: {weights:,} bytes")
    layers = sum(name.endswith("q_proj.weight") for name in state)
    rows = []
    for name, mesh in RUNS:
        sharded = spmd.shard(mod, mesh, PRESETS[name](mod), profile=PROFILE)
        found = list(islice(losses(sharded, state), steps))
        difference = max(abs(a - b) for a, b in zip(alone, found, strict=True))
        least = sent(spmd.plan(mod, mesh, PRESETS[name](mod), profile=LINKS))
        rows.append((name, str(mesh), f"{difference:.1e}", told(sent(sharded.plan)), told(least), f"{by_hand(name, weights, layers):,}"))
    print(table(("plan", "mesh", "largest difference", "bytes a step", "where links count", "by hand"), rows), flush=True)
    for run in LEAN:
        print(
            table(("plan", "mesh", "a worker holds", "predicted", "made again", "largest difference"), memory(mod, state, alone, run)),
            flush=True,
        )


def sent(plan: spmd.Plan) -> Counter[str]:
    """The bytes that each worker brings to collectives, by their kind."""
    found: Counter[str] = Counter()
    for one in plan.collectives:
        found[one.kind] += one.bytes
    return found


def told(found: Counter[str]) -> str:
    """All bytes, and those of each kind."""
    return f"{found.total():,}: " + ", ".join(f"{kind} {count:,}" for kind, count in found.items())


def by_hand(name: str, weights: int, layers: int) -> int:
    """The bytes that each of two workers an axis brings, as one writes it by hand; tensor parallelism halves the weights and gradients."""
    parts = name.split("+")
    tensors = 4 * layers * (BATCH // (len(parts))) * LENGTH * WIDTH * 4 if "megatron" in parts else 0
    own = weights // len(parts)
    return tensors + {"data_parallel": own, "fsdp": own // 2 + own, "megatron": 0}[parts[0]]


def memory(mod: Any, state: Mapping[str, Any], alone: Sequence[float], run: tuple[str, Mesh]) -> list[tuple[str, ...]]:
    """A row for each way to hold less: weights and moments donated, and memory for a part of what is held then."""
    rows: list[tuple[str, ...]] = []
    name, mesh = run
    specs = PRESETS[name](mod) if name else {}
    plain, donated = ({**specs, **spmd.presets.state(mod, donate=donate)} for donate in (False, True))
    whole = 0
    for what, given, share in (
        ("as it is", plain, 0.0),
        ("donated", donated, 0.0),
        *((f"donated, {s:.0%} of that", donated, s) for s in SHARES),
    ):
        try:
            sharded = spmd.shard(mod, mesh, given, profile=PROFILE, memory=int(whole * share) if share else None)
        except spmd.ShardingError as error:
            leanest = re.search(r"memory=(\d+) or more", str(error))
            least = f"none found below {int(leanest[1]):,} bytes" if leanest else str(error)
            rows.append((f"{name} {what}".strip(), str(mesh), least, "", "", ""))
            continue
        plan, held = sharded.plan, sharded.plan.memory["step"].peak
        whole = whole if share else held
        found = list(islice(losses(sharded, state), len(alone)))
        difference = max(abs(a - b) for a, b in zip(alone, found, strict=True))
        row = (
            f"{name} {what}".strip(),
            str(mesh),
            f"{held:,} bytes",
            f"{plan.predicted['step'] * 1e3:.2f} ms",
            f"{len(plan.again)} values",
        )
        rows.append((*row, f"{difference:.1e}"))
    return rows


if __name__ == "__main__":
    main()
