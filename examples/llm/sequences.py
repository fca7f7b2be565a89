"""The sequences that a running model has in its paged key/value cache: they are added, forked, fed, cut back and removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm.runtime import ShapeTuple

from .errors import ModelError

PAGE_SIZE, PREFILL_CHUNK = 16, 512
"""Tokens of a page of the cache, and the most that one prefill takes, of all sequences together."""
MAX_BATCH, MAX_DRAFT = 32, 7
"""The most sequences of one call, and the most tokens that are guessed ahead of one."""
BOUNDS = {"seq_len": PREFILL_CHUNK, "batch_size": MAX_BATCH, "verify_len": MAX_BATCH * (1 + MAX_DRAFT)}
"""What the sizes of the model's functions never exceed."""
FORKING = ("llvm", "cuda")
"""Targets where sequences may share pages: elsewhere the cache's list of them has room for each page once, and is written beyond that."""


class Sequences:
    """A model on workers, and the tokens of each sequence in its cache, by number.

    workers: of `spmd.workers(...)`; weights: {name: global array}; tokens: what the cache holds, of all sequences together; batch: the most
    sequences of one call; window: how far layers look back that do not see all, 0 where all do; forks: whether sequences may share pages;
    most: the bound of `batch_size` that the program was built with.
    """

    def __init__(
        self,
        workers: Any,
        weights: Mapping[str, np.ndarray],
        tokens: int,
        batch: int = 1,
        window: int = 0,
        forks: bool = True,
        most: int = MAX_BATCH,
    ) -> None:
        if not 1 <= batch <= most:
            raise ModelError("batch", f"{batch} sequences at a time", f"Give a number from 1 to {most}.")
        if tokens < 1:
            raise ModelError("the cache", f"{tokens} tokens are too few", "Give a number of at least 1.")
        self.workers, self.tokens, self.batch, self.window = workers, tokens, batch, window
        # the cache counts the tokens of a window block by block, which is wrong where one ends in the middle of it
        self.forks = forks and not window
        # the kernel for the tokens of one piece knows no window; that for what is in the cache does, and a token must see some of it
        self.chunk = min(PREFILL_CHUNK, max(window - 1, 1) if window else PREFILL_CHUNK)
        self.params = workers.load(weights, "prefill")
        sizes = (batch, tokens, PREFILL_CHUNK, PAGE_SIZE, 0)
        self.cache = workers["create_paged_kv_cache"](*(ShapeTuple([size]) for size in sizes))
        self.ids: dict[int, list[int]] = {}
        self._made = 0

    def add(self) -> int:
        """Begins an empty sequence; its number."""
        number = self._new([])
        self._call("kv_state_add_sequence", number)
        if self.window:
            self._call("attention_kv_cache_enable_sliding_window_for_seq", number, self.window, 0)
        return number

    def fork(self, parent: int, length: int) -> int:
        """Begins a sequence with the first `length` tokens of another, whose full pages the two share; its number."""
        number = self._new(self.ids[parent][:length])
        self._call("kv_state_fork_sequence", parent, number, length)
        return number

    def _new(self, ids: list[int]) -> int:
        number, self._made = self._made, self._made + 1
        self.ids[number] = ids
        return number

    def remove(self, sequence: int) -> None:
        """Forgets a sequence; pages that no other has become free."""
        del self.ids[sequence]
        self._call("kv_state_remove_sequence", sequence)

    def rewind(self, sequence: int, length: int) -> None:
        """Keeps the first `length` tokens of a sequence and forgets the rest."""
        surplus = len(self.ids[sequence]) - length
        if surplus > 0:
            self._call("kv_state_popn", sequence, surplus)
            del self.ids[sequence][length:]

    def free_pages(self) -> int:
        """How many pages of the cache nobody has."""
        return self._call("attention_kv_cache_get_num_available_pages")

    def forward(self, pieces: Mapping[int, Sequence[int]], every: bool = False) -> dict[int, np.ndarray]:
        """Appends tokens to sequences, all in one call.

        Gives {sequence: logits (1, vocab) after its last token}, or (its tokens, vocab) after each of them with `every`, in float32.
        Raises ModelError if the program lacks the function that it takes.
        """
        lengths = [len(piece) for piece in pieces.values()]
        name = self._function(pieces, every)
        single = name.endswith("decode")
        x = self.workers["embed"](np.array([token for piece in pieces.values() for token in piece], "int32"), *self.params)
        last = [np.cumsum(lengths, dtype="int32") - np.int32(1)] if name in ("batch_prefill", "batch_extend") else []
        self._call("kv_state_begin_forward", ShapeTuple(list(pieces)), ShapeTuple(lengths))
        logits, self.cache = self.workers[name](x[:, None] if single else x[None], *last, self.cache, *self.params)
        self._call("kv_state_end_forward")
        for sequence, piece in pieces.items():
            self.ids[sequence] += piece
        rows = np.split(logits.reshape(-1, logits.shape[-1]), np.cumsum(lengths if every else [1] * len(lengths))[:-1])
        return dict(zip(pieces, rows, strict=True))

    def _function(self, pieces: Mapping[int, Sequence[int]], every: bool) -> str:
        """Which function of the model takes these pieces; those for one sequence have kernels of their own."""
        known, empty = self.workers.signatures, not any(self.ids[sequence] for sequence in pieces)
        reads = "extend" if not empty and ("extend" in known or "batch_extend" in known) else "prefill"
        step = "decode" if max(map(len, pieces.values())) == 1 else reads
        verifies = every and step != "decode"
        if verifies and empty and "batch_extend" in known:
            what = "they are empty, and logits after each of several tokens are asked for"
            raise ModelError("the sequences", what, "Feed one token first.")
        name = "batch_verify" if verifies else step if len(pieces) == 1 else f"batch_{step}"
        if name not in self.workers.signatures:
            raise ModelError("the program", f"it has no function {name}", "Build it again with python -m examples.llm.build.")
        return name

    def _call(self, function: str, *arguments: Any) -> Any:
        return self.workers.call_packed(f"vm.builtin.{function}", self.cache, *arguments)
