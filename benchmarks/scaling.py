"""Whether the time of `spmd.shard` stays linear in the size of a program.

    python -m benchmarks.scaling [--quick]

Programs of 100 to 10,000 operators of several kinds, made from a fixed seed: a chain in which each operator that takes two values takes
the last one and one from before: in `chain` the last one again, in `near` one of the last 8, in `far` any one once in 50 times, in `wild`
once in 5. `width` is that of the elimination: how many values the largest table is over; `optimum`, whether the plan is known to be one
(no, where some values were fixed to keep tables small). `power` is the slope of a line through the logarithms: 1 is linear.
CPU milliseconds, float32, for 2 workers.
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np
import tvm
from tvm import relax

import spmd
from examples.llm.report import table

WORKERS, ROWS, COLUMNS, NEAR = 2, 1024, 4096, 8
ONCE_IN = {"far": 50, "wild": 5}
SIZES = (100, 300, 1000, 3000, 10000)
op = relax.op


def program(operators: int, family: str) -> tvm.IRModule:
    """A function of about so many operators over values of one shape, and a weight for each product."""
    rng, builder = random.Random(operators), relax.BlockBuilder()
    weights = [relax.Var(f"w{i}", relax.TensorType((COLUMNS, COLUMNS), "float32")) for i in range(operators // 10)]
    left, made = list(weights), 0

    def emit(call: relax.Expr) -> relax.Var:
        nonlocal made
        made += 1
        return builder.emit(call)

    def before(values: list[relax.Var]) -> relax.Var:
        if family == "chain":
            return values[-1]
        anywhere = family in ONCE_IN and rng.randrange(ONCE_IN[family]) == 0
        return rng.choice(values if anywhere else values[-NEAR:])

    def step(x: relax.Var, y: relax.Var) -> relax.Var:
        kind = rng.choice(("matmul", "unary", "binary", "binary", "reshape", "transpose", "softmax", "concat", "sum"))
        if kind == "matmul":
            return emit(op.matmul(x, left.pop())) if left else emit(op.tanh(x))
        if kind == "unary":
            return emit(rng.choice((op.exp, op.nn.relu, op.negative, op.nn.silu))(x))
        if kind == "binary":
            return emit(rng.choice((op.add, op.multiply, op.maximum))(x, y))
        if kind == "reshape":
            parts = emit(op.nn.silu(emit(op.reshape(x, (ROWS, 8, COLUMNS // 8)))))
            return emit(op.reshape(parts, (ROWS, COLUMNS)))
        if kind == "transpose":
            return emit(op.permute_dims(emit(op.tanh(emit(op.permute_dims(x))))))
        if kind == "concat":
            start = rng.choice((0, COLUMNS // 2, COLUMNS))
            return emit(op.strided_slice(emit(op.concat([x, y], axis=1)), [1], [start], [start + COLUMNS]))
        return emit(op.nn.softmax(x)) if kind == "softmax" else emit(op.subtract(x, emit(op.mean(x, axis=[1], keepdims=True))))

    values = [relax.Var("x", relax.TensorType((ROWS, COLUMNS), "float32"))]
    with builder.function("main", [*values, *weights], {"num_input": 1}):
        with builder.dataflow():
            while made < operators:
                values.append(step(values[-1], before(values)))
            out = builder.emit_output(values[-1])
        builder.emit_func_output(out)
    return builder.finalize()


def measured(operators: int, family: str) -> tuple[float, int, list[str]]:
    """CPU milliseconds of sharding, the elimination width, and the notes of the plan."""
    mod = program(operators, family)
    start = time.process_time()
    plan = spmd.shard(mod, WORKERS).plan
    return (time.process_time() - start) * 1e3, plan.width, plan.notes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 1,000 operators")
    sizes = SIZES[:3] if parser.parse_args().quick else SIZES
    measured(100, "near")  # what every process pays once
    rows: list[tuple[str, ...]] = []
    for family in ("chain", "near", *ONCE_IN):
        found = [measured(n, family) for n in sizes]
        power = np.polyfit(np.log(sizes), np.log([ms for ms, _, _ in found]), 1)[0]
        rows.append((family, "ms", *(f"{ms:.0f}" for ms, _, _ in found), f"{power:.2f}"))
        rows.append((family, "ms an operator", *(f"{ms / n:.3f}" for n, (ms, _, _) in zip(sizes, found, strict=True)), ""))
        rows.append((family, "width", *(str(width) for _, width, _ in found), ""))
        rows.append((family, "optimum", *("no" if any("optimum" in note for note in notes) else "yes" for _, _, notes in found), ""))
    print(table(("program", "", *(f"{n:,}" for n in sizes), "power"), rows))


if __name__ == "__main__":
    main()
