"""Attention of PyTorch on two workers: batches of any size, heads split.

python examples/doors/dynamic_batch.py
"""

import numpy as np
import torch

import spmd
from spmd import P


class Attention(torch.nn.Module):
    def __init__(self, width: int = 64, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (torch.nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


model = Attention().eval()
imported = spmd.from_torch(model, (torch.randn(2, 6, 64),), dynamic_shapes=({0: torch.export.Dim("batch")},))
heads = {**dict.fromkeys(("q.weight", "k.weight", "v.weight"), P("tp", None)), "out.weight": P(None, "tp")}
sharded = spmd.shard(imported.mod, mesh=2, specs=heads, sizes={"batch": 4})
print(sharded.plan.explain())
with spmd.workers(sharded) as workers:
    weights = workers.load(imported.named(model.state_dict()))
    for batch in (1, 3, 16):
        x = torch.randn(batch, 6, 64)
        found = np.asarray(workers["main"](x, *weights))
        print(f"batch of {batch}: largest difference {np.abs(found - model(x).detach().numpy()).max():.1e}")
