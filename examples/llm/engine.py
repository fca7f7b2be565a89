"""Runs the model on one worker or several: the cache, the prompt, and one token after another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import spmd

from . import model
from .config import LlamaConfig
from .errors import ModelError
from .quantization import Formats
from .quantize import quantize
from .sampling import Sampler
from .sequences import BOUNDS, Sequences

METHODS = ("embed", "prefill", "extend", "decode", "create_paged_kv_cache")
"""What one conversation needs."""
BATCH_METHODS = model.METHODS
"""What several sequences at a time need, and guesses of a draft model."""


class Engine:
    """One conversation on the workers of `spmd.workers(...)`, and the logits behind it; see `Sequences` for the arguments."""

    def __init__(self, workers: Any, weights: Mapping[str, np.ndarray], max_seq_len: int = 2048, window: int = 0):
        self.max_seq_len = max_seq_len
        self.sequences = Sequences(workers, weights, max_seq_len, window=window)
        self.sequence = self.sequences.add()

    @property
    def ids(self) -> list[int]:
        """The tokens that the cache has."""
        return self.sequences.ids[self.sequence]

    def rewind(self, length: int) -> None:
        """Keeps the first `length` tokens in the cache and forgets the rest."""
        self.sequences.rewind(self.sequence, length)

    def feed(self, ids: list[int]) -> np.ndarray:
        """Appends tokens to the sequence; the logits (vocab,) in float32 after the last of them.

        Raises ModelError if the cache is full.
        """
        if len(self.ids) + len(ids) > self.max_seq_len:
            tokens = f"{len(self.ids) + len(ids)} tokens do not fit into the cache of {self.max_seq_len}"
            raise ModelError("the conversation", tokens, "Shorten it, or raise --max-seq-len.")
        logits = np.empty(0, "float32")
        for start in range(0, len(ids), self.sequences.chunk):
            logits = self.sequences.forward({self.sequence: ids[start : start + self.sequences.chunk]})[self.sequence]
        return logits.reshape(-1)

    def prompt(self, ids: list[int]) -> np.ndarray:
        """Makes the sequence equal to `ids`, keeping what the cache has of it; the logits (vocab,) after the last."""
        kept = 0
        for old, new in zip(self.ids, ids[:-1], strict=False):
            if old != new:
                break
            kept += 1
        self.rewind(kept)
        return self.feed(ids[kept:])

    def generate(
        self,
        prompt: list[int],
        sampler: Callable[[np.ndarray], int] | None = None,
        max_tokens: int = 256,
        stop_ids: Collection[int] = (),
        logits_out: list[np.ndarray] | None = None,
    ) -> Iterator[int]:
        """Tokens that follow `prompt`, greedy unless a sampler is given; ends at a stop token, which is not given out.

        `logits_out` receives the logits behind every choice.
        """
        choose = sampler or Sampler()
        logits = self.prompt(prompt)
        for count in range(1, max_tokens + 1):
            if logits_out is not None:
                logits_out.append(logits)
            token = choose(logits)
            if token in stop_ids:
                return
            yield token
            if count == max_tokens or len(self.ids) == self.max_seq_len:
                return
            logits = self.feed([token])

    def score(self, prompt: list[int], answer: list[int]) -> np.ndarray:
        """The logits (len(answer), vocab) before each token of a given answer, step by step as generation does."""
        steps = [self.prompt(prompt)]
        steps += [self.feed([token]) for token in answer[:-1]]
        return np.stack(steps)


def check_shards(config: LlamaConfig, num_shards: int) -> None:
    """Raises ModelError if the attention heads cannot be spread over `num_shards` workers."""
    most = config.num_key_value_heads
    if not 1 <= num_shards <= most:
        what = f"{num_shards} workers cannot share the {most} key/value heads of this model"
        raise ModelError("--num-shards", what, f"Each worker needs one: use 1 to {most}.")


def shard(
    config: LlamaConfig,
    num_shards: int,
    target: Any = "llvm",
    quantization: Formats = "",
    profile: str = "cpu",
    methods: Sequence[str] = METHODS,
) -> Any:
    """What `spmd.workers` runs: the plain IRModule for one worker, else a ShardedModule.

    quantization: a name of `quantization.FORMATS`, {weight: name}, or "" for weights as they are; profile: the hardware where the
    workers run; methods: METHODS, or BATCH_METHODS.
    Raises ModelError for too many shards, and spmd.ShardingError if the model cannot be sharded.
    """
    check_shards(config, num_shards)
    mod = model.bounded(model.build_module(config, target, methods)[0], BOUNDS)
    if quantization:
        mod = quantize(mod, quantization)
    return mod if num_shards == 1 else spmd.shard(mod, mesh=num_shards, profile=profile)


def backend_of(target: str, backend: str = "threads") -> str:
    """The backend that runs the code of a target: pocl for that of OpenCL, else the one that is given."""
    return "pocl" if target == "opencl" else backend


@contextmanager
def start(
    program: Any,
    weights: Mapping[str, np.ndarray],
    *,
    target: str = "llvm",
    backend: str = "threads",
    max_seq_len: int = 2048,
    window: int = 0,
) -> Iterator[Engine]:
    """Compiles what `shard` returns, starts its workers, places the weights, and gives an engine.

    target: "llvm", or "opencl" for the schedules and kernels of GPUs, which pocl runs on the CPU. backend: "threads", or "mpi" in a process
    that a launcher has started for each worker. window: the largest of the configuration's `layer_windows`.
    """
    with spmd.workers(program, backend=backend_of(target, backend), target=target) as workers:
        yield Engine(workers, weights, max_seq_len, window)
