"""Run by `doctor` in two processes: they add up what they have, and each says that it is right."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
from tvm import relax

from spmd.collectives import all_reduce
from spmd.ir.builder import Builder
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Sharding
from spmd.plan.decisions import Leaf, Signature

from .workers import workers

WORKERS = 2


def program() -> Any:
    """The sum over the workers of the rows that each has."""
    builder, x = Builder(), relax.Var("x", relax.TensorType((1, 4), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            total = builder.emit_output(all_reduce(x, "tp", "sum", WORKERS, "x"))
        builder.emit_func_output(total)
    given, result = (Leaf(n, s, "float32", Sharding.parse(p, s)) for n, s, p in (("x", (WORKERS, 4), "[tp, -]"), ("y", (1, 4), "[-, -]")))
    plan = SimpleNamespace(divisible={}, functions={"main": Signature((given,), result, None)})
    return SimpleNamespace(mod=builder.finalize(), mesh=Mesh(tp=WORKERS), plan=plan)


def main(backend: str) -> None:
    """Print "right" if it is."""
    target = {"nccl": "cuda", "rccl": "rocm"}.get(backend, "llvm")
    x = np.arange(WORKERS * 4, dtype=np.float32).reshape(WORKERS, 4)
    with workers(program(), backend, target) as running:
        print("right" if np.array_equal(running["main"](x), x.sum(0, keepdims=True)) else "wrong", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
