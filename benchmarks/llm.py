"""Tokens a second of language models, and the share of the memory's bandwidth: measured here on the CPU, projected for GPUs.

    python -m benchmarks.llm [--quick] [--model FILE] [--forms NAME ...] [--shards N ...] [--batch N ...] [--points FILE]

Each line is a model, how its weights are packed, how many workers share it, and how many sequences get a token in each step. Beside it
stand PyTorch, eager and compiled, and llama.cpp on the same file, each with as many threads; who is not installed is named and left out.
All take turns. A step reads each weight once: the share is those bytes a second, of what reading large arrays reaches in the same run.
Then come predicted speeds beside published ones, by `benchmarks.backtest`: projections, which nobody ran.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

import spmd
from benchmarks import backtest
from examples.llm.build import quantized
from examples.llm.engine import BATCH_METHODS, shard
from examples.llm.fetch import fetch
from examples.llm.quantization import packed_weights
from examples.llm.report import table
from examples.llm.sequences import Sequences
from examples.llm.source import Source, open_model

PROMPT = 128
FORMS = ("q0f32", "q4f32_1", "gguf")
READ = 1 << 28
"""Bytes that are read to find the memory's bandwidth."""
Run = Callable[[int], tuple[float, float]]
"""Reads the prompt and makes so many steps: the seconds of each."""


@dataclass
class Candidate:
    """Who makes tokens of what."""

    name: str
    form: str
    shards: int
    batch: int
    weight_bytes: int
    run: Run


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read together, the best of five times."""
    parts = np.array_split(np.ones(READ // 4, "float32"), threads)
    with ThreadPoolExecutor(threads) as pool:

        def once() -> float:
            begin = time.perf_counter()
            list(pool.map(np.sum, parts))
            return READ / (time.perf_counter() - begin)

        return max(once() for _ in range(5))


@contextmanager
def ours(source: Source, model: str, form: str, shards: int, batch: int) -> Iterator[Candidate]:
    """The model on workers, each of whose sequences gets the prompt and then a token a step."""
    config, formats = quantized(model, form)
    kept = form == "gguf"
    weights = dict(source.packed(config.dtype) if kept else packed_weights(source.weights(config.dtype).items(), formats))
    program = shard(config, shards, quantization=formats, methods=BATCH_METHODS)
    size = sum(array.nbytes for name, array in weights.items() if config.tie_word_embeddings or "embed_tokens" not in name)
    with spmd.workers(program) as workers:

        def run(steps: int) -> tuple[float, float]:
            running = Sequences(workers, weights, batch * (PROMPT + steps + 16), batch)
            names = [running.add() for _ in range(batch)]
            begin = time.perf_counter()
            for name in names:
                running.forward({name: list(range(1000, 1000 + PROMPT))})
            middle = time.perf_counter()
            for step in range(steps):
                running.forward({name: [2000 + step] for name in names})
            return middle - begin, time.perf_counter() - middle

        yield Candidate("spmd", form, shards, batch, size, run)


@contextmanager
def torch_eager(source: Source, compiled: bool) -> Iterator[Candidate]:
    """The model in plain PyTorch, one sequence, float32."""
    found = importlib.import_module("benchmarks.llm_torch").Llama(source.config, source.weights(), PROMPT, compiled)
    yield Candidate("PyTorch compiled" if compiled else "PyTorch eager", "q0f32", 1, 1, found.weight_bytes, found.run)


@contextmanager
def llama_cpp(model: str, threads: int) -> Iterator[Candidate]:
    """llama.cpp on the same file."""
    loaded = importlib.import_module("llama_cpp").Llama(model, n_threads=threads, n_threads_batch=threads, n_ctx=1024, verbose=False)

    def run(steps: int) -> tuple[float, float]:
        loaded.reset()
        begin = time.perf_counter()
        loaded.eval(list(range(1000, 1000 + PROMPT)))
        middle = time.perf_counter()
        for step in range(steps):
            loaded.eval([2000 + step])
        return middle - begin, time.perf_counter() - middle

    yield Candidate("llama.cpp", "gguf", 1, 1, Path(model).stat().st_size, run)


def measured(options: argparse.Namespace) -> None:
    """Prints the table of what runs here."""
    model, threads = str(options.model or fetch()), os.cpu_count() or 1
    source = open_model(model)
    is_file = model.endswith(".gguf")
    rounds, steps = (2, 8) if options.quick else (5, 32)
    forms = options.forms or (FORMS[:2] if options.quick else FORMS)
    cases = [(form, n, b) for form in forms if is_file or form != "gguf" for n in options.shards for b in options.batch]
    found: list[Candidate] = []
    with ExitStack() as stack:
        makers = [lambda case=case: ours(source, model, *case) for case in cases]
        makers += [lambda: torch_eager(source, False)] + [lambda: torch_eager(source, True)] * (not options.quick)
        makers += [lambda: llama_cpp(model, threads)] if is_file else []
        for maker in makers:
            try:
                one = stack.enter_context(maker())
                one.run(2)
                found.append(one)
                print(f"ready: {one.name}, {one.form}", flush=True)
            except ImportError as error:
                print(f"left out: {error}")
        taken: list[list[tuple[float, float]]] = [[] for _ in found]
        for _ in range(rounds):
            for times, one in zip(taken, found, strict=True):
                times.append(one.run(steps))
        most = bandwidth(threads)
    print(f"{Path(model).name}, {threads} threads each, {load()}; reading memory: {most / 1e9:.1f} GB/s\n")
    print(table(HEAD, [row(one, times, steps, most) for one, times in zip(found, taken, strict=True)]) + "\n")


HEAD = ("who", "weights", "workers", "sequences", "prefill tokens/s", "decode tokens/s", "of the bandwidth")


def row(one: Candidate, times: Sequence[tuple[float, float]], steps: int, most: float) -> tuple[str, ...]:
    """A line: medians, of all sequences together."""
    read, write = (median(pair[i] for pair in times) for i in (0, 1))
    share = one.weight_bytes * steps / write / most
    tokens = f"{PROMPT * one.batch / read:.1f}", f"{steps * one.batch / write:.1f}"
    return one.name, one.form, str(one.shards), str(one.batch), *tokens, f"{share:.2f}"


def load() -> str:
    """Whether anything else keeps the machine busy."""
    others = os.getloadavg()[0] - 1
    return f"load of others {others:.1f}: no figures to quote" if others > 0.5 else "quiet machine"


def main() -> None:
    """Prints both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, forms and points, and no compiled PyTorch")
    parser.add_argument("--model", type=Path, help="a .gguf file or a folder of a Llama (default: SmolLM2-135M)")
    parser.add_argument("--forms", nargs="*", metavar="NAME", help=f"how weights are packed (default: {', '.join(FORMS)})")
    parser.add_argument("--shards", nargs="*", type=int, default=[1], metavar="N", help="workers (default 1)")
    parser.add_argument("--batch", nargs="*", type=int, default=[1], metavar="N", help="sequences (default 1)")
    parser.add_argument("--points", type=Path, default=backtest.POINTS, help="a CSV file of published speeds")
    options = parser.parse_args()
    measured(options)
    points = [point for point in backtest.read(options.points) if not point.is_fit]
    print(backtest.report("projections of points that no fit has seen", points[:3] if options.quick else points))


if __name__ == "__main__":
    main()
