"""Run by `test_hosts.py` on four processes, two on each of two hosts: a model whose heads are split inside of a host, and whose batch is
split over the hosts, gives the tokens that it gives unsharded. Then one of them is late.
"""

import math
import socket
import time

import numpy as np
from mpi4py import MPI
from tvm.relax.frontend import nn

import spmd
from spmd import P
from spmd.run.workers import Workers

VOCAB, WIDTH, HEADS, LENGTH, BATCH, STEPS = 64, 32, 4, 8, 4, 6
MESH = spmd.Mesh(dp=2, tp=2, hosts=2)
SPECS = {"*.tokens": P("dp", None), "q.weight": P("tp", None), "up.weight": P("tp", None), "forward.return[1]": P()}


class Model(nn.Module):
    """A block of a transformer that looks at the last tokens, all at once."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens: nn.Tensor) -> tuple[nn.Tensor, nn.Tensor]:
        x = self.embedding(tokens)
        q, k, v = (
            nn.op.permute_dims(nn.op.reshape(part(x), (BATCH, LENGTH, HEADS, WIDTH // HEADS)), axes=[0, 2, 1, 3])
            for part in (self.q, self.k, self.v)
        )
        seen = nn.op.softmax(nn.op.matmul(q, nn.op.permute_dims(k, axes=[0, 1, 3, 2])) * (1 / math.sqrt(WIDTH // HEADS)), axis=-1)
        joined = nn.op.reshape(nn.op.permute_dims(nn.op.matmul(seen, v), axes=[0, 2, 1, 3]), (BATCH, LENGTH, WIDTH))
        x = x + self.o(joined)
        logits = self.head(x + self.down(nn.op.silu(self.up(x))))
        return logits, nn.op.sum(logits, axis=[0, 1, 2])


def tokens(w: Workers, weights: list[np.ndarray]) -> np.ndarray:
    """The last tokens of each row of the batch, after some steps."""
    window = np.random.default_rng(1).integers(0, VOCAB, (BATCH, LENGTH)).astype("int32")
    placed = w.load(weights)
    for _ in range(STEPS):
        logits, total = w["forward"](window, *placed)
        np.testing.assert_allclose(total, logits.sum(), rtol=1e-3, atol=1e-2)
        window = np.concatenate([window[:, 1:], logits[:, -1].argmax(-1).astype("int32")[:, None]], 1)
    return window


def main() -> None:
    comm = MPI.COMM_WORLD
    mod, named = Model().export_tvm({"forward": {"tokens": nn.spec.Tensor([BATCH, LENGTH], "int32")}})
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal([int(s) for s in p.shape]).astype("float32") for _, p in named]
    alone = None
    if comm.rank == 0:
        with spmd.workers(mod) as w:
            alone = tokens(w, weights)
    sharded = spmd.shard(mod, MESH, SPECS)
    with spmd.workers(sharded, backend="mpi", timeout=3.0) as w:
        found = tokens(w, weights)
        axes = {record.axis for record in w.trace()}
        np.testing.assert_array_equal(found, comm.bcast(alone))
        print(
            f"{socket.gethostname()}, worker {comm.rank}: the same tokens, with collectives over {' and '.join(sorted(axes))}", flush=True
        )
        comm.Barrier()
        if comm.rank == 3:
            time.sleep(60)
        tokens(w, weights)
        print("not reached", flush=True)


if __name__ == "__main__":
    main()
