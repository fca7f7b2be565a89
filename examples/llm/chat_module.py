"""A built model from Python: `ChatModule(model="dist/").generate(prompt="...")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import overload

import spmd

from .artifact import Header, StoredWeights
from .batching import BatchEngine
from .engine import backend_of
from .errors import ModelError
from .request import Statistics
from .sampling import Sampler
from .sequences import FORKING, Sequences
from .tokenizer import ChatTokenizer, load_tokenizer

Callback = Callable[[str, bool], None]


class StreamToStdout:
    """A progress callback that prints the answer as it comes, once in `callback_interval` tokens."""

    def __init__(self, callback_interval: int = 2) -> None:
        if callback_interval < 1:
            raise ModelError("callback_interval", f"{callback_interval} is too few", "Give a number of at least 1.")
        self.callback_interval = callback_interval
        self._held: list[str] = []
        self._tokens = 0

    def __call__(self, piece: str, stopped: bool = False) -> None:
        """Takes the text of one token, "" where its characters are not whole yet; `stopped` says that there is no more."""
        self._held.append(piece)
        self._tokens += 1
        if stopped or self._tokens % self.callback_interval == 0:
            print("".join(self._held), end="\n" if stopped else "", flush=True)
            self._held.clear()


class Conversation:
    """Messages to a model and its answers, as text."""

    def __init__(self, engine: BatchEngine, tokenizer: ChatTokenizer) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.messages: list[dict[str, str]] = []

    @overload
    def generate(
        self, prompt: str, progress_callback: Callback | None = None, max_tokens: int = 256, sampler: Sampler | None = None
    ) -> str: ...
    @overload
    def generate(
        self, prompt: Sequence[str], progress_callback: None = None, max_tokens: int = 256, sampler: Sampler | None = None
    ) -> list[str]: ...
    def generate(
        self,
        prompt: str | Sequence[str],
        progress_callback: Callback | None = None,
        max_tokens: int = 256,
        sampler: Sampler | None = None,
    ) -> str | list[str]:
        """The answer to the next message of the conversation; the callback gets the text of each token, and at last ("", True).

        Each of several prompts begins a conversation of its own, which is not continued; they are answered together, each as if alone.
        """
        if not isinstance(prompt, str):
            return self._together(prompt, max_tokens, sampler)
        self.messages.append({"role": "user", "content": prompt})
        request = self.engine.submit(self.tokenizer.prompt(self.messages), max_tokens, sampler, self.tokenizer.stop_ids)
        pieces = []
        for piece in self.tokenizer.stream(self.engine.stream(request)):
            pieces.append(piece)
            if progress_callback is not None:
                progress_callback(piece, False)
        if progress_callback is not None:
            progress_callback("", True)
        self.messages.append({"role": "assistant", "content": "".join(pieces)})
        return self.messages[-1]["content"]

    def _together(self, prompts: Sequence[str], max_tokens: int, sampler: Sampler | None) -> list[str]:
        tokens = [self.tokenizer.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
        requests = [self.engine.submit(ids, max_tokens, deepcopy(sampler), self.tokenizer.stop_ids) for ids in tokens]
        while self.engine.step():
            pass
        return ["".join(self.tokenizer.stream(request.tokens)) for request in requests]

    def stats(self) -> str:
        """Tokens a second of what was read and written since the conversation began, and what the prefix cache and a draft model spared."""
        return str(self.engine.statistics)

    def reset_chat(self) -> None:
        """Begins a new conversation."""
        self.messages.clear()
        self.engine.statistics = Statistics()


class ChatModule(Conversation):
    """A conversation with the model in a folder that `build` and `convert_weights` wrote. `close` it, or use it in `with`.

    num_shards: how many workers it was built for, where it is to be checked; draft: the folder of a smaller model with the same tokens,
    which guesses `draft_tokens` ahead; max_batch: how many prompts are answered at a time; cache_tokens: what the cache holds of all of
    them, by default what the model was built for. Raises ModelError for what the folder does not hold.
    """

    def __init__(
        self,
        model: str | Path,
        num_shards: int | None = None,
        backend: str = "",
        draft: str | Path | None = None,
        draft_tokens: int = 4,
        max_batch: int = 8,
        cache_tokens: int | None = None,
        prefix_cache: bool = True,
    ) -> None:
        with ExitStack() as stack:
            folders = [Path(folder).expanduser() for folder in (model, draft) if folder is not None]
            headers = [Header.read(folder) for folder in folders]
            if num_shards not in (None, headers[0].num_shards):
                what = f"it is built for {headers[0].num_shards} workers, not for {num_shards}"
                raise ModelError(folders[0], what, f"Leave num_shards out, or build it again with --num-shards {num_shards}.")
            tokenizers = [load_tokenizer(folder) for folder in folders]
            check_draft(tokenizers)
            tokens = cache_tokens or headers[0].max_seq_len
            opened = [_opened(stack, *each, backend, max_batch, tokens) for each in zip(folders, headers, strict=True)]
            super().__init__(BatchEngine(*opened, draft_tokens=draft_tokens, prefix_cache=prefix_cache), tokenizers[0])
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends the workers."""
        self._stack.close()

    def __enter__(self) -> ChatModule:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)


def check_draft(tokenizers: Sequence[ChatTokenizer]) -> None:
    """Raises ModelError unless the tokens of a model and of its draft model, if there is one, are the same."""
    if len(tokenizers) > 1 and tokenizers[0].tokenizer.get_vocab() != tokenizers[1].tokenizer.get_vocab():
        raise ModelError("the draft model", "its tokens are not those of the model", "Use a smaller model of the same family.")


def _opened(stack: ExitStack, folder: Path, header: Header, backend: str, batch: int, tokens: int) -> Sequences:
    """The model of a folder, running until the stack is closed."""
    weights, library = StoredWeights(folder), spmd.load(folder)
    target = library.target.kind.name
    workers = stack.enter_context(spmd.workers(library, backend=backend or backend_of(target)))
    return Sequences(workers, weights, tokens, batch, header.window, forks=target in FORKING)
