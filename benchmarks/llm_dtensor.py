"""The Llama of `llm_torch`, split over processes as tensor parallelism of PyTorch splits it: DTensors, with gloo between them."""

from __future__ import annotations

import atexit
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from benchmarks.llm_torch import Llama
from examples.llm.config import LlamaConfig

COLUMNS, ROWS, HEAD = ("qkv_proj", "gate_up_proj"), ("o_proj", "down_proj"), ("lm_head",)
MEET = Path(tempfile.gettempdir()) / "spmd-benchmark-gloo-{}"


class _Own(Mapping[str, np.ndarray]):
    """The part of each weight that a process has; of fused ones its part of each."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, np.ndarray], rank: int, workers: int) -> None:
        self._weights, self._rank, self._workers = weights, rank, workers
        self._fused = {"qkv_proj": config.qkv_sizes, "gate_up_proj": (config.intermediate_size,) * 2}

    def __getitem__(self, name: str) -> np.ndarray:
        kind, array = name.split(".")[-2], self._weights[name]
        if kind in ROWS:
            return np.split(array, self._workers, 1)[self._rank]
        if kind not in (*COLUMNS, *HEAD):
            return array
        pieces = np.split(array, np.cumsum(self._fused.get(kind, (len(array),)))[:-1])
        return np.concatenate([np.split(piece, self._workers)[self._rank] for piece in pieces])

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


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
        super().__init__(local, _Own(config, weights, rank, workers), prompt, False)
        for name, weight in self.weights.items():
            kind = name.split(".")[-2]
            if kind in (*COLUMNS, *ROWS, *HEAD):
                self.weights[name] = DTensor.from_local(weight, self._mesh, [Shard(1 if kind in ROWS else 0)])

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        kind, weight = name.split(".")[-1], self.weights[f"{name}.weight"]
        if not isinstance(weight, DTensor):
            return F.linear(x, weight)
        y = F.linear(DTensor.from_local(x, self._mesh, [Shard(-1) if kind in ROWS else Replicate()]), weight)
        return y.to_local() if kind in COLUMNS else y.redistribute(placements=[Replicate()]).to_local()
