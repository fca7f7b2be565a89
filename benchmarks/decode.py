"""Tokens a second of SmolLM2-135M, float32, unsharded and on simulated workers, which share the cores of this machine.

    python -m benchmarks.decode [--quick]

Simulated workers do not make it faster: N workers do the same work on the same cores, and meet twice a layer. The ratio is what
sharding costs. Unsharded, kernels run on all cores; the workers divide these among them. The three programs take turns. Median rates.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from statistics import median

from examples.llm.engine import Engine, shard, start
from examples.llm.fetch import fetch
from examples.llm.report import table
from examples.llm.source import open_model

WORKERS = (1, 2, 3)
PROMPT = 128


def rates(engine: Engine, tokens: int, prompt: int = PROMPT) -> tuple[float, float]:
    """Tokens a second of a prompt of so many tokens, and of `tokens` single steps after it."""
    engine.rewind(0)
    begin = time.perf_counter()
    engine.feed(list(range(1000, 1000 + prompt)))
    middle = time.perf_counter()
    for token in range(tokens):
        engine.feed([2000 + token])
    return prompt / (middle - begin), tokens / (time.perf_counter() - middle)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds instead of 7")
    rounds, tokens = (2, 8) if parser.parse_args().quick else (7, 24)
    source = open_model(fetch())
    weights = source.weights()
    taken: dict[int, list[tuple[float, float]]] = {n: [] for n in WORKERS}
    with ExitStack() as stack:
        engines = {n: stack.enter_context(start(shard(source.config, n), weights, max_seq_len=PROMPT + tokens)) for n in WORKERS}
        for engine in engines.values():
            rates(engine, 2)
        for _ in range(rounds):
            for n, engine in engines.items():
                taken[n].append(rates(engine, tokens))
    prefill, decode = ({n: median(pair[i] for pair in pairs) for n, pairs in taken.items()} for i in (0, 1))
    rows = [
        (
            str(n) if n > 1 else "unsharded",
            f"{prefill[n]:.1f}",
            f"{prefill[n] / prefill[1]:.2f}",
            f"{decode[n]:.1f}",
            f"{decode[n] / decode[1]:.2f}",
        )
        for n in WORKERS
    ]
    print(f"{os.cpu_count()} cores\n")
    print(table(("workers", "prefill tokens/s", "ratio", "decode tokens/s", "ratio"), rows))


if __name__ == "__main__":
    main()
