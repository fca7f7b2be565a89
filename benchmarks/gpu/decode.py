"""Decode of one worker's part of a Llama on one GPU: how fast, how much of the memory's bandwidth, and whether its numbers are right.

    python -m benchmarks.gpu.decode [--model llama-3.1-8b] [--shards 2] [--layers 4] [--forms q0f16 q4f16_1] [--batch 1 4 16 64]

The model has the heads, features and vocabulary that one of so many workers has, so it runs that worker's kernels, and no collectives. Its
weights are random. Each form is built without and with CUDA graphs. A step reads each weight but the table of embeddings, and the keys and
values of all tokens before it: the share is those bytes a second, of what copying large arrays on the device reaches. Numbers are logits of
a prompt and of the steps after it, beside those of the same weights on the CPU. The exit code is 1 where they differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import tvm

import spmd
from benchmarks.random_weights import RandomWeights
from examples.llm.build import quantized, told
from examples.llm.build_program import TABLE, whole
from examples.llm.config import LlamaConfig
from examples.llm.quantization import Formats, packed_weights
from examples.llm.sequences import PREFILL_CHUNK, Sequences

METHODS = ("embed", "prefill", "decode", "batch_decode", "create_paged_kv_cache")
PROMPT, STEPS, WARM = 128, 24, 3
COPIED = 1 << 30
CLOSE = 0.03
"""Difference of a logit, of the largest: 16-bit sums in another order."""


def part_of(config: LlamaConfig, shards: int, layers: int) -> LlamaConfig:
    """What one of so many workers has of each layer."""
    split = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    sizes = {name: getattr(config, name) // shards for name in split}
    return dataclasses.replace(config, **sizes, num_hidden_layers=layers)


def program(config: LlamaConfig, target: tvm.target.Target, formats: Formats, batch: int) -> tvm.IRModule:
    """The functions that make tokens, for up to so many sequences."""
    return whole(config, target, formats, METHODS, {"seq_len": PREFILL_CHUNK, "batch_size": batch})


@contextmanager
def started(
    mod: tvm.IRModule, target: Any, backend: str, weights: Mapping[str, np.ndarray], batch: int, graphs: bool
) -> Iterator[Sequences]:
    """The program with its weights where it runs, and room for so many sequences."""
    with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": graphs}):
        library = spmd.build(mod, target)
    with spmd.workers(library, backend) as workers:
        yield Sequences(workers, weights, batch * (PROMPT + STEPS + WARM + 16), batch, most=batch)


def seconds(sequences: Sequences, batch: int) -> float:
    """The median step of so many sequences, each of which has had a prompt."""
    names = [sequences.add() for _ in range(batch)]
    for name in names:
        sequences.forward({name: range(7, 7 + PROMPT)})
    taken: list[float] = []
    for step in range(WARM + STEPS):
        begin = time.perf_counter()
        sequences.forward({name: [11 + step] for name in names})
        taken.append(time.perf_counter() - begin)
    for name in names:
        sequences.remove(name)
    return median(taken[WARM:])


def logits(sequences: Sequences) -> np.ndarray:
    """Those after a prompt and after some steps, of one sequence and of two in one call, (7, vocabulary)."""
    one, two = sequences.add(), sequences.add()
    found = [sequences.forward({name: range(first, first + 9)})[name] for name, first in ((one, 3), (two, 20))]
    found += [sequences.forward({one: [5]})[one]]
    for token in (40, 41):
        both = sequences.forward({one: [token], two: [token + 9]})
        found += [both[one], both[two]]
    for name in (one, two):
        sequences.remove(name)
    return np.concatenate(found)


def bandwidth(device: Any) -> float:
    """Bytes a second that are read and written when a large array is copied on a device, the best of some times."""
    source, target = (tvm.runtime.empty((COPIED,), "uint8", device) for _ in range(2))
    best = math.inf
    for _ in range(5):
        device.sync()
        begin = time.perf_counter()
        source.copyto(target)
        device.sync()
        best = min(best, time.perf_counter() - begin)
    return 2 * COPIED / best


def run(options: argparse.Namespace) -> bool:
    """Prints a line for each form, kind of build and batch; whether all numbers are right."""
    device = tvm.device("cpu" if options.target == "llvm" else options.target)
    arch = f"sm_{str(device.compute_version).replace('.', '')}" if options.target == "cuda" else ""
    target, backend = told(options.target, arch), "nccl" if options.target == "cuda" else "threads"
    most, right = max(*options.batch, 2), True
    speed = bandwidth(device)
    print(f"{arch or options.target}: copying reaches {speed / 1e9:,.0f} GB/s", flush=True)
    for form in options.forms:
        unsplit, formats = quantized(options.model, form)
        config = part_of(unsplit, options.shards, options.layers)
        plain = RandomWeights(config, METHODS)
        weights = dict(packed_weights(plain.items(), formats)) if formats else dict(plain)
        size = sum(array.nbytes for name, array in weights.items() if config.tie_word_embeddings or not name.startswith(TABLE))
        token = 4 * config.num_key_value_heads * config.head_dim * options.layers  # bytes of 16-bit keys and values
        with started(program(config, tvm.target.Target("llvm"), formats, 2), "llvm", "threads", weights, 2, graphs=False) as sequences:
            expected = logits(sequences)
        for graphs in (False, True) if options.target == "cuda" else (False,):
            mod = program(config, tvm.target.Target(target), formats, most)
            with started(mod, target, backend, weights, most, graphs) as sequences:
                apart = float(np.max(np.abs(logits(sequences) - expected)) / np.max(np.abs(expected)))
                right = right and apart <= CLOSE
                name = f"{form}, {'with' if graphs else 'without'} CUDA graphs"
                print(f"{name}: logits differ from the CPU's by {apart:.1e} of the largest, at most {CLOSE} is expected", flush=True)
                for batch in options.batch:
                    taken = seconds(sequences, batch)
                    share = (size + batch * token * (PROMPT + STEPS / 2)) / taken / speed
                    rates = f"{1e6 * taken:,.0f} us a step, {batch / taken:,.0f} tokens/s, {share:.0%} of that"
                    print(f"{name}, batch {batch}: {rates}", flush=True)
    return right


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-3.1-8b", help="a preset of examples.llm (default llama-3.1-8b)")
    parser.add_argument("--shards", type=int, default=2, help="of how many workers this is one (default 2)")
    parser.add_argument("--layers", type=int, default=4, help="how many layers of it (default 4)")
    parser.add_argument("--forms", nargs="+", default=["q0f16", "q4f16_1"], help="quantizations (default q0f16 q4f16_1)")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16, 64], help="sequences of a step (default 1 4 16 64)")
    parser.add_argument("--target", choices=("cuda", "llvm"), default="cuda", help="llvm tries this program without a GPU")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(not run(parsed(sys.argv[1:])))
