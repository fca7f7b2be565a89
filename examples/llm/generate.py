"""`python -m examples.llm.generate dist/ prompts.txt`: the answers to many prompts, a line each, which are worked on together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .chat_module import ChatModule
from .command import exit_code, quiet
from .errors import ModelError
from .sequences import MAX_BATCH, MAX_DRAFT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.llm.generate", description="Answer many prompts together.")
    parser.add_argument("built", help="a folder that examples.llm.build and examples.llm.convert_weights wrote")
    parser.add_argument("prompts", type=Path, help="a text file with a prompt on each line")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest answer in tokens (default 256)")
    parser.add_argument("--max-batch", type=int, default=8, help=f"prompts at a time, at most {MAX_BATCH} (default 8)")
    parser.add_argument("--cache-tokens", type=int, help="tokens that the cache holds of all prompts (default: as it was built)")
    parser.add_argument("--no-prefix-cache", action="store_true", help="share no pages between prompts that begin alike")
    parser.add_argument("--draft", help="a smaller built model with the same tokens, which guesses what comes next")
    parser.add_argument(
        "--draft-tokens", type=int, default=4, help=f"how many tokens it guesses at a time, at most {MAX_DRAFT} (default 4)"
    )
    parser.add_argument("--backend", default="", choices=["threads", "mpi"], help="workers as threads, or as processes of MPI")
    return parser


def run(options: argparse.Namespace) -> None:
    """Reads the prompts, and prints each with its answer, in their order; at last how fast it was."""
    if not options.prompts.is_file():
        raise ModelError(options.prompts, "there is no such file", "Give a text file with a prompt on each line.")
    prompts = [line for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    chat = ChatModule(
        options.built,
        backend=options.backend,
        draft=options.draft,
        draft_tokens=options.draft_tokens,
        max_batch=options.max_batch,
        cache_tokens=options.cache_tokens,
        prefix_cache=not options.no_prefix_cache,
    )
    with chat:
        for prompt, answer in zip(prompts, chat.generate(prompts, max_tokens=options.max_tokens), strict=True):
            print(f"> {prompt}\n{answer}\n")
        print(f"[{chat.stats()}]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line on standard error that says what is wrong."""
    options = _parser().parse_args(arguments)
    with quiet(options.backend):
        return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
