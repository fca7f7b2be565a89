"""`python -m examples.llm.chat dist/`, or `--model PATH --num-shards 2` to build it first; without --prompt, a conversation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from spmd import ShardingError

from .chat_module import ChatModule
from .engine import Engine, check_shards, shard, start
from .errors import ModelError
from .sampling import Sampler
from .source import open_model
from .tokenizer import ChatTokenizer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.llm.chat", description="Ask a Llama that runs on N workers.")
    parser.add_argument("built", nargs="?", help="a folder that examples.llm.build and examples.llm.convert_weights wrote")
    parser.add_argument("--model", help="in its place a .gguf file or a Hugging Face folder, which is built now")
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


def answer(engine: Engine, tokenizer: ChatTokenizer, messages: list[dict[str, str]], sampler: Sampler, max_tokens: int) -> str:
    """Prints the answer as it comes, and returns it."""
    pieces = []
    for piece in tokenizer.stream(engine.generate(tokenizer.prompt(messages), sampler, max_tokens, tokenizer.stop_ids)):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)


def converse(engine: Engine, tokenizer: ChatTokenizer, sampler: Sampler, max_tokens: int) -> None:
    """Questions from standard input until it ends; the model sees the whole conversation."""
    messages: list[dict[str, str]] = []
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            print()
            return
        if question:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer(engine, tokenizer, messages, sampler, max_tokens)})


def run(options: argparse.Namespace) -> None:
    """Loads, shards, starts and talks."""
    _check(options)
    sampler = Sampler(options.temperature, options.top_p, options.seed)
    if options.built:
        with ChatModule(options.built, options.num_shards) as chat:
            talk(options, chat.engine, chat.tokenizer, sampler)
        return
    source = open_model(options.model)
    config = source.config.with_dtype(options.dtype)
    shards = 1 if options.num_shards is None else options.num_shards
    check_shards(config, shards)
    tokenizer, weights = source.tokenizer(), source.weights(options.dtype)
    program, window = shard(config, shards, options.target), max(config.layer_windows)
    with start(program, weights, target=options.target, max_seq_len=options.max_seq_len, window=window) as engine:
        talk(options, engine, tokenizer, sampler)


def talk(options: argparse.Namespace, engine: Engine, tokenizer: ChatTokenizer, sampler: Sampler) -> None:
    """One answer where there is a prompt, else a conversation."""
    if options.prompt is None:
        converse(engine, tokenizer, sampler, options.max_tokens)
    else:
        answer(engine, tokenizer, [{"role": "user", "content": options.prompt}], sampler, options.max_tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line on standard error that says what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        run(options)
    except (ModelError, ShardingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
