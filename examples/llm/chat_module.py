"""A built model from Python: `ChatModule(model="dist/").generate(prompt="...")`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import spmd

from .artifact import Header, StoredWeights
from .engine import Engine
from .errors import ModelError
from .sampling import Sampler
from .tokenizer import load_tokenizer


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


class ChatModule:
    """A conversation with the model in a folder that `build` and `convert_weights` wrote. `close` it, or use it in `with`.

    num_shards: how many workers it was built for, where it is to be checked. Raises ModelError for what the folder does not hold.
    """

    def __init__(self, model: str | Path, num_shards: int | None = None, backend: str = "") -> None:
        folder = Path(model).expanduser()
        header = Header.read(folder)
        if num_shards not in (None, header.num_shards):
            what = f"it is built for {header.num_shards} workers, not for {num_shards}"
            raise ModelError(folder, what, f"Leave num_shards out, or build it again with --num-shards {num_shards}.")
        self.tokenizer, weights = load_tokenizer(folder), StoredWeights(folder)
        library = spmd.load(folder)
        self._workers = spmd.workers(library, backend=backend or ("pocl" if library.target.kind.name == "opencl" else "threads"))
        self.engine = Engine(self._workers.__enter__(), weights, header.max_seq_len, header.window)
        self.messages: list[dict[str, str]] = []
        self._seconds, self._counts = {"prefill": 0.0, "decode": 0.0}, {"prefill": 0, "decode": 0}

    def generate(
        self,
        prompt: str,
        progress_callback: Callable[[str, bool], None] | None = None,
        max_tokens: int = 256,
        sampler: Sampler | None = None,
    ) -> str:
        """The answer to the next message of the conversation; the callback gets the text of each token, and at last ("", True)."""
        self.messages.append({"role": "user", "content": prompt})
        pieces = []
        for piece in self.tokenizer.stream(self._timed(self.tokenizer.prompt(self.messages), sampler, max_tokens)):
            pieces.append(piece)
            if progress_callback is not None:
                progress_callback(piece, False)
        if progress_callback is not None:
            progress_callback("", True)
        self.messages.append({"role": "assistant", "content": "".join(pieces)})
        return self.messages[-1]["content"]

    def _timed(self, prompt: list[int], sampler: Sampler | None, max_tokens: int) -> Iterator[int]:
        stage, began = "prefill", time.perf_counter()
        self._counts["prefill"] += len(prompt)
        for token in self.engine.generate(prompt, sampler, max_tokens, self.tokenizer.stop_ids):
            self._seconds[stage] += time.perf_counter() - began
            self._counts["decode"] += stage == "decode"
            yield token
            stage, began = "decode", time.perf_counter()

    def stats(self) -> str:
        """Tokens a second of what was read and written since the conversation began."""
        rates = {stage: self._counts[stage] / seconds if seconds else 0.0 for stage, seconds in self._seconds.items()}
        return ", ".join(f"{stage}: {rate:.1f} tok/s" for stage, rate in rates.items())

    def reset_chat(self) -> None:
        """Begins a new conversation."""
        self.messages.clear()
        self._seconds, self._counts = {"prefill": 0.0, "decode": 0.0}, {"prefill": 0, "decode": 0}

    def close(self) -> None:
        """Ends the workers."""
        self._workers.__exit__(None, None, None)

    def __enter__(self) -> ChatModule:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._workers.__exit__(kind, error, trace)
