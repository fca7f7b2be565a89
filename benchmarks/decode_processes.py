"""Tokens a second of a language model on processes of one thread each, and on one process with as many threads.

    python -m benchmarks.decode_processes [--quick] [--models NAME ...] [--workers N] [--prompt TOKENS]

The processes meet as MPI's do, in memory that they share, twice a layer. PyTorch stands beside them where it is installed: eager with as
many threads, and DTensors on as many processes with gloo, where these divide the heads. The processes stay loaded and take turns with each
of the others, which is loaded beside them; who does not have the turn sleeps. Median rates of one sequence in float32, weights of
SmolLM2-135M as they are, of `llama-1.1b` (the sizes of TinyLlama) random; the ratio is that of the rounds of both. `collectives` is the
time of a chain of sums of the same bytes in the same processes, as many as the plan has for a step, of the time of a step. `bandwidth` is
the bytes of weights that a second of decode reads, of those that as many threads read of an array in the same rounds.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from statistics import median
from typing import Any

import numpy as np

import spmd
from benchmarks import collectives
from benchmarks.decode import PROMPT, rates
from benchmarks.random_weights import RandomWeights
from examples.llm.build_program import bytes_of
from examples.llm.config import LlamaConfig
from examples.llm.engine import METHODS, shard, start
from examples.llm.fetch import fetch
from examples.llm.model import build_module
from examples.llm.report import table
from examples.llm.source import open_model

LARGE = LlamaConfig(
    model_type="llama",
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=64,
    vocab_size=32000,
    max_position_embeddings=2048,
    dtype="float32",
)
MODELS = ("smollm2-135m", "llama-1.1b")
KINDS = ("processes", "one process", "PyTorch eager", "PyTorch DTensor")
SEVERAL = ("processes", "PyTorch DTensor")
"""Those that are processes of one thread each."""
READ = 1 << 28
"""Bytes that a thread reads to measure how fast memory is."""
Rates = tuple[float, float]


def config_of(name: str) -> LlamaConfig:
    """The sizes of a model by name."""
    return open_model(fetch()).config if name == "smollm2-135m" else LARGE


def weights_of(name: str) -> Mapping[str, np.ndarray]:
    """Its weights in float32."""
    return open_model(fetch()).weights() if name == "smollm2-135m" else RandomWeights(LARGE, METHODS)


def serve(kind: str, model: str, workers: int, prompt: int) -> None:
    """One of those that take turns: says that it is ready, then reads numbers of tokens up to a 0, and prints the rates of each."""
    config, weights = config_of(model), weights_of(model)
    rank, told = (_rank(), _everyone) if kind in SEVERAL else (0, sys.stdin.readline)
    if kind.startswith("PyTorch"):
        _answer(torch_rates(kind, config, weights, rank, workers, prompt), told, {}, rank)
        return
    program = shard(config, workers if kind in SEVERAL else 1)
    said = _sums(program, config, workers) if kind in SEVERAL else {}
    with start(program, weights, backend="mpi" if kind in SEVERAL else "threads", max_seq_len=prompt + 64) as engine:
        _answer(lambda tokens: rates(engine, tokens, prompt), told, said, rank)


def torch_rates(
    kind: str, config: LlamaConfig, weights: Mapping[str, np.ndarray], rank: int, workers: int, prompt: int
) -> Callable[[int], Rates]:
    """The same rates of PyTorch."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(workers)
    if kind == "PyTorch eager":
        peer = importlib.import_module("benchmarks.llm_torch").Llama(config, weights, prompt, False)
    else:
        peer = importlib.import_module("benchmarks.llm_dtensor").SplitLlama(config, weights, prompt, rank, workers)

    def run(tokens: int) -> Rates:
        read, written = peer.run(tokens)
        return prompt / read, tokens / written

    return run


def _answer(run: Callable[[int], Rates], told: Callable[[], str], said: dict[str, float], rank: int) -> None:
    run(2)
    if rank == 0:
        print(json.dumps(said), flush=True)
    while tokens := int(told() or 0):
        found = run(tokens)
        if rank == 0:
            print(json.dumps(found), flush=True)


def _rank() -> int:
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank


def _everyone() -> str:
    """A line that the first process reads, in all of them, which sleep until it is there."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.rank == 0:
        line = sys.stdin.readline()
        for other in range(1, comm.size):
            comm.send(line, other)
        return line
    while not comm.Iprobe(source=0):
        time.sleep(1e-3)
    return comm.recv(source=0)


def _sums(program: Any, config: LlamaConfig, workers: int) -> dict[str, float]:
    """The seconds of the collectives of one step, in a chain."""
    from mpi4py import MPI

    count = sum(one.function == "decode" for one in program.plan.collectives)
    size = 4 * config.hidden_size
    with spmd.workers(collectives.program(workers, size), backend="mpi") as running:
        taken: dict[str, list[float]] = {"short": [], "long": []}
        for _ in range(200):
            for name, times in taken.items():
                times.append(MPI.COMM_WORLD.allreduce(collectives.chain(running, name, size)(), MPI.MAX))
    short, long = map(collectives.undisturbed, taken.values())
    each = (long - short) / (2 * collectives.count_of(size))
    return {"collectives": count * each}


class Turn:
    """A launched command that waits for its turn."""

    def __init__(self, kind: str, model: str, workers: int, prompt: int) -> None:
        here = ["-m", "benchmarks.decode_processes", "--serve", kind, "--models", model, "--workers", str(workers), "--prompt", str(prompt)]
        launched = ["-m", "spmd", "run", "-n", str(workers), *here] if kind in SEVERAL else here
        threads = {} if kind in SEVERAL else {"TVM_NUM_THREADS": str(workers)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, *launched], stdin=pipe, stdout=pipe, text=True, env={**os.environ, **threads})
        self.said = self._line()

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # of one that failed
            print(0, file=self.process.stdin, flush=True)  # a launcher does not pass on that its input ended
        self.process.wait()

    def rates(self, tokens: int) -> Rates:
        """Tokens a second of the prompt, and of so many steps after it."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            print(tokens, file=self.process.stdin, flush=True)
        read, written = self._line()
        return read, written

    def _line(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise RuntimeError(f"{self.process.args} ended")


def measured(model: str, workers: int, prompt: int, quick: bool) -> list[tuple[str, ...]]:
    """The lines of a model."""
    kinds = [kind for kind in KINDS[1:] if not kind.startswith("PyTorch") or importlib.util.find_spec("torch")]
    if config_of(model).num_key_value_heads % workers:
        kinds = [kind for kind in kinds if kind != "PyTorch DTensor"]  # which splits heads evenly alone
    rounds, tokens = (2, 8) if quick else (7, 16)
    memory, weights = Memory(workers), read_by_a_step(model)
    own: list[Rates] = []
    lines: list[tuple[str, ...]] = []
    with Turn(KINDS[0], model, workers, prompt) as processes:
        for kind in kinds:
            taken: list[tuple[Rates, Rates, float]] = []
            with Turn(kind, model, workers, prompt) as turn:
                for _ in range(rounds):
                    taken.append((processes.rates(tokens), turn.rates(tokens), memory.bandwidth()))
            mine, its = ([median(one[who][i] for one in taken) for i in (0, 1)] for who in (0, 1))
            own += [one[0] for one in taken]
            share = weights * its[1] / median(one[2] for one in taken)
            who = f"{kind}, {workers} {'processes' if kind in SEVERAL else 'threads'}"
            lines.append((model, who, f"{its[0]:.1f}", f"{its[1]:.1f}", f"{mine[1] / its[1]:.2f}", "", f"{share:.2f}"))
        read, written = (median(one[i] for one in own) for i in (0, 1))
        sums = f"{100 * processes.said['collectives'] * written:.1f}%"
    return [(model, f"{workers} processes", f"{read:.1f}", f"{written:.1f}", "1.00", sums, ""), *lines]


def read_by_a_step(model: str) -> int:
    """The bytes of weights that one step of decode reads: all but a table of which it takes one row."""
    config = config_of(model)
    whole = bytes_of(build_module(config, methods=METHODS)[1])
    return whole if config.tie_word_embeddings else whole - 4 * config.vocab_size * config.hidden_size


class Memory:
    """Arrays that threads read to measure how fast memory is."""

    def __init__(self, threads: int) -> None:
        self._arrays = [np.ones(READ // 4, "float32") for _ in range(threads)]

    def bandwidth(self) -> float:
        """Bytes a second that all threads read together, of an array each."""
        with ThreadPoolExecutor(len(self._arrays)) as pool:
            begin = time.perf_counter()
            list(pool.map(lambda array: np.dot(array, array), self._arrays))
            return READ * len(self._arrays) / (time.perf_counter() - begin)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="SmolLM2 alone, 2 rounds instead of 7")
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens that are read before any is written")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    models = options.models or (MODELS[:1] if options.quick else MODELS)
    if options.serve:
        serve(options.serve, models[0], options.workers, options.prompt)
        return
    print(f"{os.cpu_count()} cores\n")
    for model in models:
        rows = measured(model, options.workers, options.prompt, options.quick)
        print(
            table(("model", "who", "prefill tokens/s", "decode tokens/s", "processes / this", "collectives", "bandwidth"), rows) + "\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
