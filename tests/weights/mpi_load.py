"""Run by `test_load.py` on two processes: a library and weights that others have cut, and a checkpoint, from files."""

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI
from safetensors.numpy import load_file

import spmd
from spmd.weights.gather import File

out, given = map(Path, sys.argv[1:])
arrays = load_file(given / "model.safetensors")
x = np.random.default_rng(1).standard_normal((4, 16), np.float32)
expected = np.maximum(x @ arrays["w1"], 0) @ arrays["w2"]
opened: set[str] = set()
reading = File.reading


def seen(self: File, *args: object) -> None:
    opened.add(self.path.name)
    reading(self, *args)


File.reading = seen
with spmd.workers(spmd.load(out), backend="mpi", timeout=20.0) as w:
    for weights in (out, given):
        opened.clear()
        np.testing.assert_allclose(w["main"](x, *w.load(weights)), expected, rtol=1e-4, atol=1e-4)
        assert opened == {f"rank-{MPI.COMM_WORLD.rank}-of-2.safetensors" if weights == out else "model.safetensors"}
print("the same numbers", flush=True)
