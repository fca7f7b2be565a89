"""The Llama of `llm_torch`, split over processes as tensor parallelism of PyTorch splits it: DTensors, with gloo between them."""

from __future__ import annotations

import atexit
import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from benchmarks.llm_torch import Llama
from examples.llm.config import LlamaConfig

COLUMNS, ROWS, HEAD = ("qkv_proj", "gate_up_proj"), ("o_proj", "down_proj"), ("lm_head",)
MEET = Path(tempfile.gettempdir()) / "spmd-benchmark-gloo-{}"


class SplitLlama(Llama):
    """`run(steps)` as there, in all of `workers` processes at once, of which this one is number `rank`."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, np.ndarray], prompt: int, rank: int, workers: int) -> None:
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        if heads % workers or groups % workers:
            raise ValueError(f"{workers} processes do not divide {heads} and {groups} heads")
        torch.set_num_threads(1)
        meet = str(MEET).format(os.getppid())
        torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=workers)
        atexit.register(torch.distributed.destroy_process_group)  # whose threads must not outlive Python
        self._mesh = init_device_mesh("cpu", (workers,))
        local = dataclasses.replace(config, num_attention_heads=heads // workers, num_key_value_heads=groups // workers)
        super().__init__(local, weights, prompt, False)
        parts = {"qkv_proj": config.qkv_sizes, "gate_up_proj": (config.intermediate_size,) * 2}
        for name, weight in self.weights.items():
            kind = name.split(".")[-2]
            if kind in COLUMNS:  # each has its rows of q, of k and of v
                pieces = [part.chunk(workers) for part in weight.split(parts[kind])]
                weight = torch.cat([piece[i] for i in range(workers) for piece in pieces])
            if kind in (*COLUMNS, *ROWS, *HEAD):
                self.weights[name] = distribute_tensor(weight, self._mesh, [Shard(1 if kind in ROWS else 0)])

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        kind, weight = name.split(".")[-1], self.weights[f"{name}.weight"]
        if not isinstance(weight, DTensor):
            return F.linear(x, weight)
        y = F.linear(DTensor.from_local(x, self._mesh, [Shard(-1) if kind in ROWS else Replicate()]), weight)
        return y.to_local() if kind in COLUMNS else y.redistribute(placements=[Replicate()]).to_local()
