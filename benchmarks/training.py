"""Training the character model on several workers beside one: 200 steps with Adam, the largest difference of a loss, and what is sent.

    python -m benchmarks.training [--quick]

What is sent a step is the sum over its collectives of the bytes that each worker brings. By hand, data parallelism sums each gradient once,
and fully sharded training gathers each weight once and scatters the sum of each gradient.

The second table is of memory: what a worker holds when it holds the most, as the plan has it, with weights and moments donated, and with
less memory than that, so that activations are made again.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import spmd
from examples.llm.report import table
from examples.train.train import PRESETS, PROFILE, losses, step_and_state
from spmd import Mesh

RUNS = (
    ("data_parallel", Mesh(dp=2)),
    ("megatron", Mesh(tp=2)),
    ("fsdp", Mesh(dp=2)),
    ("data_parallel+megatron", Mesh(dp=2, tp=2)),
    ("fsdp+megatron", Mesh(dp=2, tp=2)),
)
LEAN = (("", Mesh(tp=1)), ("fsdp", Mesh(dp=2)))
SHARES = (0.75, 0.6)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 steps instead of 200")
    steps = 20 if parser.parse_args().quick else 200
    mod, state = step_and_state()
    alone = list(islice(losses(spmd.shard(mod, 1, profile=PROFILE), state), steps))
    weights = sum(array.nbytes for name, array in state.items() if not name.endswith((".0", ".1", ".2")))
    print(f"unsharded: loss {alone[0]:.3f} at first, {alone[-1]:.3f} after {steps} steps; weights: {weights:,} bytes")
    rows = []
    for name, mesh in RUNS:
        sharded = spmd.shard(mod, mesh, PRESETS[name](mod), profile=PROFILE)
        found = list(islice(losses(sharded, state), steps))
        sent: Counter[str] = Counter()
        for one in sharded.plan.collectives:
            sent[one.kind] += one.bytes
        difference = max(abs(a - b) for a, b in zip(alone, found, strict=True))
        rows.append((name, str(mesh), f"{difference:.1e}", ", ".join(f"{kind} {count:,}" for kind, count in sent.items())))
    print(table(("plan", "mesh", "largest difference", "bytes a step"), rows))
    print(table(("plan", "mesh", "a worker holds", "predicted", "made again", "largest difference"), memory(mod, state, alone)))


def memory(mod: Any, state: Mapping[str, Any], alone: Sequence[float]) -> list[tuple[str, ...]]:
    """A row for each way to hold less: weights and moments donated, and memory for a part of what is held then."""
    rows: list[tuple[str, ...]] = []
    for name, mesh in LEAN:
        specs = PRESETS[name](mod) if name else {}
        plain, donated = ({**specs, **spmd.presets.state(mod, donate=donate)} for donate in (False, True))
        whole = 0
        for what, given, share in (
            ("as it is", plain, 0.0),
            ("donated", donated, 0.0),
            *((f"donated, {s:.0%} of that", donated, s) for s in SHARES),
        ):
            sharded = spmd.shard(mod, mesh, given, profile=PROFILE, memory=int(whole * share) if share else None)
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
