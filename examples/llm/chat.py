"""`python -m examples.llm.chat dist/`, or `--model PATH --num-shards 2` to build it first; without --prompt, a conversation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import spmd

from .batching import BatchEngine
from .chat_module import ChatModule, Conversation, StreamToStdout, check_draft
from .command import exit_code
from .engine import BATCH_METHODS, METHODS, backend_of, check_shards, shard
from .errors import ModelError
from .sampling import Sampler
from .sequences import FORKING, Sequences
from .source import open_model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.llm.chat", description="Ask a Llama that runs on N workers.")
    parser.add_argument("built", nargs="?", help="a folder that examples.llm.build and examples.llm.convert_weights wrote")
    parser.add_argument("--model", help="in its place a .gguf file or a Hugging Face folder, which is built now")
    parser.add_argument("--draft", help="a smaller model with the same tokens, given as the model is, which guesses what comes next")
    parser.add_argument("--draft-tokens", type=int, default=4, help="how many tokens it guesses at a time (default 4)")
    parser.add_argument("--num-shards", type=int, help="how many workers share the model (default 1, or as it was built)")
    parser.add_argument("--prompt", help="one question; without it, a conversation")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest answer in tokens (default 256)")
    parser.add_argument("--max-seq-len", type=int, default=2048, help="tokens that the cache holds (default 2048)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token each time (default 0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest tokens of this probability (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--dtype", default="float32", help="float32 or float16 (default float32)")
    parser.add_argument(
        "--target", default="llvm", choices=["llvm", "opencl"], help="what to compile for (default llvm); opencl is run by pocl"
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raises ModelError for a number out of its range, and where it is not said which model to ask."""
    if (options.built is None) == (options.model is None):
        raise ModelError("chat", "it takes either a built folder or --model", "Give one of them.")
    for name in ("max_tokens", "max_seq_len"):
        if getattr(options, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise ModelError(flag, f"{getattr(options, name)} is too few", "Give a number of at least 1.")
    if options.temperature < 0.0:
        raise ModelError("--temperature", f"{options.temperature} is negative", "Use 0 for the likeliest token.")
    if not 0.0 < options.top_p <= 1.0:
        raise ModelError("--top-p", f"{options.top_p} is no probability", "Give a number above 0 and at most 1.")


COMMANDS = {
    "/help": "list these commands",
    "/stats": "tokens a second of what was read and written since the conversation began",
    "/reset": "begin a new conversation",
    "/exit": "end",
}
"""What a line may say instead of a question, and what that does."""


def converse(chat: Conversation, sampler: Sampler, max_tokens: int) -> None:
    """Questions from standard input until it ends; the model sees the whole conversation."""
    if sys.stdin.isatty():
        print("Ask, or write /help.")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line == "/exit":
            return
        if line == "/reset":
            chat.reset_chat()
        elif line == "/stats":
            print(chat.stats())
        elif line.startswith("/"):
            if line != "/help":
                print(f"There is no command {line}.")
            print("\n".join(f"{command:<8}{text}" for command, text in COMMANDS.items()))
        elif line:
            chat.generate(line, StreamToStdout(1), max_tokens, sampler)


def run(options: argparse.Namespace) -> None:
    """Opens what was built, or builds it, and talks."""
    _check(options)
    sampler = Sampler(options.temperature, options.top_p, options.seed)
    with ExitStack() as stack:
        if options.built:
            chat: Conversation = stack.enter_context(
                ChatModule(options.built, options.num_shards, draft=options.draft, draft_tokens=options.draft_tokens, max_batch=1)
            )
        else:
            chat = _built(stack, options)
        if options.prompt is None:
            converse(chat, sampler, options.max_tokens)
        else:
            chat.generate(options.prompt, StreamToStdout(1), options.max_tokens, sampler)


def _built(stack: ExitStack, options: argparse.Namespace) -> Conversation:
    """A conversation with a model that is compiled now, on workers that run until the stack is closed."""
    sources = [open_model(path) for path in (options.model, options.draft) if path is not None]
    configs = [source.config.with_dtype(options.dtype) for source in sources]
    shards, methods = 1 if options.num_shards is None else options.num_shards, BATCH_METHODS if options.draft else METHODS
    for config in configs:
        check_shards(config, shards)
    tokenizers = [source.tokenizer() for source in sources]
    check_draft(tokenizers)
    models = []
    for source, config in zip(sources, configs, strict=True):
        program = shard(config, shards, options.target, methods=methods)
        workers = stack.enter_context(spmd.workers(program, backend=backend_of(options.target), target=options.target))
        weights, window = source.weights(options.dtype), max(config.layer_windows)
        models.append(Sequences(workers, weights, options.max_seq_len, window=window, forks=options.target in FORKING))
    return Conversation(BatchEngine(*models, draft_tokens=options.draft_tokens), tokenizers[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line on standard error that says what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return exit_code(lambda: run(options))
    except KeyboardInterrupt:
        print()
        return 0


if __name__ == "__main__":
    sys.exit(main())
