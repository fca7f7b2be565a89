"""Planning a training step: Llama-3-8B shapes, forward and backward, nothing annotated but the batch: cost, bound, CPU seconds, memory.

    python -m benchmarks.training_plan [--quick]

The module is what `relax.transform.Gradient` makes of the decoder layers, float32, batch 64 of 2,048 tokens; every gradient is returned as
the planner likes. CPU seconds are of `spmd.plan` alone, and memory is what a process that does nothing else needs above importing spmd;
a new process for each line. A peer, published: AutoParallel plans a Llama 8B in 46.8 s and 2.8 GiB, on a machine of its own (its PR 521).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import tvm
from tvm import relax
from tvm.relax import op

import spmd
from examples.llm.report import table
from spmd import Mesh, P

BATCH, LENGTH, WIDTH, HEADS, GROUPS, HIDDEN = 64, 2048, 4096, 32, 8, 14336
EACH = WIDTH // HEADS
SHAPES = {
    "q": (WIDTH, WIDTH), "k": (WIDTH, GROUPS * EACH), "v": (WIDTH, GROUPS * EACH), "o": (WIDTH, WIDTH),
    "gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH), "norm1": (WIDTH,), "norm2": (WIDTH,),
}  # fmt: skip
MESHES = (
    (32, Mesh(dp=8, tp=8, hosts=8)),
    (32, Mesh(dp=2, tp=2)),
    (32, Mesh(dp=2, tp=2, cp=2)),
    (32, Mesh(dp=4, tp=4, cp=4)),
)


def layer(builder: relax.BlockBuilder, x: relax.Expr, weights: dict[str, relax.Var]) -> relax.Expr:
    """A decoder layer with grouped-query attention."""
    e = builder.emit

    def norm(v: relax.Expr, weight: relax.Expr) -> relax.Expr:
        mean = e(op.mean(e(op.multiply(v, v)), -1, keepdims=True))
        return e(op.multiply(e(op.divide(v, e(op.sqrt(e(op.add(mean, relax.const(1e-5))))))), weight))

    def by_head(v: relax.Expr, count: int) -> relax.Expr:
        return e(op.permute_dims(e(op.reshape(v, [BATCH, LENGTH, count, EACH])), [0, 2, 1, 3]))

    def repeated(v: relax.Expr) -> relax.Expr:
        v = e(op.expand_dims(e(op.reshape(v, [BATCH, LENGTH, GROUPS, EACH])), 3))
        return by_head(e(op.broadcast_to(v, [BATCH, LENGTH, GROUPS, HEADS // GROUPS, EACH])), HEADS)

    n = norm(x, weights["norm1"])
    q = by_head(e(op.matmul(n, weights["q"])), HEADS)
    k, v = (repeated(e(op.matmul(n, weights[name]))) for name in "kv")
    scores = e(op.multiply(e(op.matmul(q, e(op.permute_dims(k, [0, 1, 3, 2])))), relax.const(EACH**-0.5)))
    mixed = e(op.permute_dims(e(op.matmul(e(op.nn.softmax(scores, -1)), v)), [0, 2, 1, 3]))
    x = e(op.add(x, e(op.matmul(e(op.reshape(mixed, [BATCH, LENGTH, WIDTH])), weights["o"]))))
    n = norm(x, weights["norm2"])
    inner = e(op.multiply(e(op.nn.silu(e(op.matmul(n, weights["gate"])))), e(op.matmul(n, weights["up"]))))
    return e(op.add(x, e(op.matmul(inner, weights["down"]))))


def training_step(layers: int) -> tuple[tvm.IRModule, dict[str, P]]:
    """The adjoint of so many layers (mean of squares as the loss), and specs that split the batch and leave all gradients open."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([BATCH, LENGTH, WIDTH], "float32"))
    weights = [{n: relax.Var(f"layers.{i}.{n}", relax.TensorType(s, "float32")) for n, s in SHAPES.items()} for i in range(layers)]
    params = [x, *(w for each in weights for w in each.values())]
    with builder.function("main", params, attrs={"num_input": 1}):
        with builder.dataflow():
            h = x
            for each in weights:
                h = layer(builder, h, each)
            out = builder.emit_output(builder.emit(op.mean(builder.emit(op.multiply(h, h)))))
        builder.emit_func_output(out)
    mod = relax.transform.Gradient("main")(builder.finalize())
    del mod["main"]
    specs = {f"main_adjoint.return[1][{i}]": P(*["?"] * p.ty.ndim) for i, p in enumerate(params)}
    return mod, {**specs, "main_adjoint.x": P("dp", None, None)}


def megabytes() -> float:
    """The most memory that this process ever needed."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def row(layers: int, mesh: Mesh) -> tuple[str, ...]:
    """One line of the table."""
    mod, specs = training_step(layers)
    before, start = megabytes(), time.process_time()
    plan = spmd.plan(mod, mesh, specs, profile="h100", memory=float("inf"))
    taken, needed = time.process_time() - start, megabytes() - before
    operators = sum(map(len, plan.choices.values()))
    costs = (f"{plan.cost * 1e3:.2f}", f"{plan.bound * 1e3:.2f}", f"{plan.gap:.3%}")
    return str(layers), str(operators), str(mesh), *costs, f"{taken:.1f}", f"{needed:.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 layers instead of 32, two axes")
    quick = parser.parse_args().quick
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = [pool.apply(row, (2 if quick else layers, mesh)) for layers, mesh in (MESHES[:2] if quick else MESHES)]
    print(table(("layers", "operators", "mesh", "cost, ms", "bound, ms", "gap", "CPU seconds", "MB"), rows))


if __name__ == "__main__":
    main()
