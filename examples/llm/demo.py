"""`python -m examples.llm.demo`: one question to SmolLM2-135M-Instruct, unsharded and sharded, and the plan."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .command import exit_code, quiet
from .engine import check_shards, shard, start
from .errors import ModelError
from .fetch import fetch
from .report import collectives_table, weights_table
from .source import open_model
from .tokenizer import ChatTokenizer

QUESTION = "What is the meaning of life?"


@dataclass
class Answer:
    """Greedy tokens, the logits (vocab,) behind each, and the seconds when each came."""

    tokens: list[int] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second after the first one."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0]) if len(self.times) > 1 else float("nan")


def ask(
    program: Any,
    weights: dict[str, np.ndarray],
    prompt: list[int],
    tokenizer: ChatTokenizer,
    length: int,
    same: list[int] | None = None,
    target: str = "llvm",
    backend: str = "threads",
) -> Answer:
    """Streams a greedy answer of at most `length` tokens to standard output.

    same: tokens of an earlier answer. Where this one differs, its logits are computed again with those tokens fed.
    """
    answer = Answer()
    with start(program, weights, target=target, backend=backend, max_seq_len=len(prompt) + length) as engine:

        def watched() -> Iterator[int]:
            for token in engine.generate(prompt, None, length, tokenizer.stop_ids, answer.logits):
                answer.tokens.append(token)
                answer.times.append(time.perf_counter())
                yield token

        for piece in tokenizer.stream(watched()):
            print(piece, end="", flush=True)
        if same and answer.tokens != same:
            answer.logits = list(engine.score(prompt, same))
    print(f"\n[{len(answer.tokens)} tokens, {answer.rate:.1f} tokens/s]\n")
    return answer


def compare(one: Answer, many: Answer) -> str:
    """Whether the tokens agree, and how far the logits are apart when both were fed the same tokens."""
    steps = min(len(one.logits), len(many.logits))
    gap = max(float(np.abs(a - b).max()) for a, b in zip(one.logits, many.logits, strict=False))
    if one.tokens == many.tokens:
        verdict = f"the greedy tokens agree, all {len(one.tokens)} of them"
    else:
        pairs = enumerate(zip(one.tokens, many.tokens, strict=False))
        first = next((i for i, (a, b) in pairs if a != b), min(len(one.tokens), len(many.tokens)))
        verdict = f"the greedy tokens DIFFER from token {first} on"
    scale = max(float(np.abs(a).max()) for a in one.logits)
    return f"{verdict}\nlargest difference of a logit over {steps} steps: {gap:.2e} (largest logit {scale:.1f})"


def at_first(options: argparse.Namespace, make: Callable[[], Answer]) -> Answer:
    """What `make` gives: made by the first process where there are several, which alone writes to standard output."""
    if options.backend != "mpi":
        return make()
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return world.bcast(make() if world.rank == 0 else None)


def run(options: argparse.Namespace) -> bool:
    """The whole demonstration; true if the tokens agree."""
    if options.max_tokens < 1:
        raise ModelError("--max-tokens", f"{options.max_tokens} is too few", "Give a number of at least 1.")
    source = open_model(options.model or fetch())
    check_shards(source.config, options.num_shards)
    tokenizer, weights = source.tokenizer(), source.weights()
    prompt = tokenizer.prompt([{"role": "user", "content": options.prompt}])

    print(f"> {options.prompt}\n\n== one worker, unsharded")
    one = at_first(options, lambda: ask(shard(source.config, 1), weights, prompt, tokenizer, options.max_tokens))

    began = time.perf_counter()
    target = "opencl" if options.gpu else "llvm"
    program = shard(source.config, options.num_shards, target)
    took = time.perf_counter() - began
    where = ", compiled for GPUs and run by pocl" if options.gpu else ", processes" if options.backend == "mpi" else ""
    print(f"== workers: {options.num_shards}, nothing annotated, sharded in {took:.2f} s{where}")
    many = ask(program, weights, prompt, tokenizer, options.max_tokens, one.tokens, target, options.backend)
    if options.num_shards > 1:
        print("== the plan\n")
        print(weights_table(program.plan, program.mesh, weights) + "\n")
        print(collectives_table(program.plan) + "\n")
    print("== the comparison\n")
    print(compare(one, many))
    return one.tokens == many.tokens


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 if the answers differ, 2 after one line on standard error that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m examples.llm.demo", description=__doc__)
    parser.add_argument("--num-shards", type=int, default=3, help="workers of the sharded run (default 3)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer in tokens (default 64)")
    parser.add_argument("--prompt", default=QUESTION, help="the question")
    parser.add_argument("--gpu", action="store_true", help="compile the sharded run for GPUs by OpenCL, which pocl runs on the CPU")
    parser.add_argument("--backend", choices=["threads", "mpi"], default="threads", help="workers as threads, or as processes of MPI")
    parser.add_argument("--started", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--model", help="another model: a .gguf file or a Hugging Face folder")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)

    def ask_both() -> int:
        if options.backend == "mpi" and not options.started:
            if not options.model:
                fetch()  # by one process for all
            program = ["-m", "examples.llm.demo", *given, "--started"]
            os.execv(sys.executable, [sys.executable, "-m", "spmd", "run", "-n", str(options.num_shards), *program])
        with quiet(options.backend):
            return 0 if run(options) else 1

    return exit_code(ask_both)


if __name__ == "__main__":
    sys.exit(main())
