"""Continuous batching: requests join and leave a running batch, and each gets the tokens that it would get alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from .errors import ModelError
from .prefixes import PrefixCache
from .request import Choose, Request, Statistics
from .sampling import Sampler
from .sequences import Sequences
from .speculation import Draft


class BatchEngine:
    """Runs requests together, as many as the cache has room for, in the order in which they came.

    model: the one that answers; draft: a smaller one with the same tokens, which guesses up to `draft_tokens` of each request ahead for the
    model to check in one call; prefix_cache: whether requests share the pages of what they have in common. Neither changes any token.
    """

    def __init__(self, model: Sequences, draft: Sequences | None = None, draft_tokens: int = 4, prefix_cache: bool = True) -> None:
        self.model = PrefixCache(model, prefix_cache)
        self.draft = None if draft is None else Draft(draft, draft_tokens, prefix_cache)
        self.waiting: deque[Request] = deque()
        self.statistics = Statistics()

    def submit(self, prompt: Sequence[int], max_tokens: int = 256, choose: Choose | None = None, stop_ids: Collection[int] = ()) -> Request:
        """A request that joins the batch at the first step that has room for it; greedy unless `choose` is given.

        It ends before a token of `stop_ids`, after `max_tokens` tokens, or when it fills the cache. Raises ModelError for what never fits.
        """
        if not prompt or max_tokens < 1:
            raise ModelError("a request", f"{max_tokens} tokens after {len(prompt)}", "Give at least one of each.")
        room = min(cache.sequences.tokens for cache in self._caches())
        if len(prompt) > room:
            what = f"{len(prompt)} tokens do not fit into the cache of {room}"
            raise ModelError("the conversation", what, "Shorten it, or raise --max-seq-len.")
        request = Request(list(prompt), choose or Sampler(), stop_ids, min(len(prompt) + max_tokens - 1, room))
        self.waiting.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Takes a request out, whether it waits or runs; nothing where it has ended."""
        if request.finished:
            return
        request.finished = "cancelled"
        if request in self.waiting:
            self.waiting.remove(request)
        else:
            self._leave(request)

    def step(self) -> bool:
        """Lets requests join, reads a piece of their prompts, and gives each that is read its next tokens; False without requests."""
        self._join()
        if not self.model.running:
            return False
        with self.statistics.timed("prefill"):
            self._read()
        with self.statistics.timed("decode"):
            self._write([request for request in self.model.running if request.tokens])
        return True

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int = 256, stop_ids: Collection[int] = ()) -> list[list[int]]:
        """The likeliest tokens that follow each prompt, in the order of the prompts."""
        requests = [self.submit(prompt, max_tokens, stop_ids=stop_ids) for prompt in prompts]
        while self.step():
            pass
        return [request.tokens for request in requests]

    def stream(self, request: Request) -> Iterator[int]:
        """The tokens of a request as they come, while others run with it; it is cancelled where the rest is not taken."""
        given = 0
        try:
            while given < len(request.tokens) or (not request.finished and self.step()):
                if given < len(request.tokens):
                    given += 1
                    yield request.tokens[given - 1]
        finally:
            self.cancel(request)

    def _caches(self) -> list[PrefixCache]:
        return [self.model] if self.draft is None else [self.model, self.draft.cache]

    def _join(self) -> None:
        """Begins requests that wait, the first first, while there is room."""
        caches = self._caches()
        while self.waiting and len(self.model.running) < min(cache.sequences.batch for cache in caches):
            request = self.waiting[0]
            begun = [cache for cache in caches if cache.begin(request)]
            if len(begun) < len(caches):
                for cache in begun:
                    cache.end(request)
                return
            self.statistics.shared += self.model.fed(self.waiting.popleft())

    def _leave(self, request: Request) -> None:
        for cache in self._caches():
            cache.end(request)

    def _read(self) -> None:
        """Feeds the next piece of prompts; a request that is read to its end gets its first token."""
        if self.draft is not None:
            self.draft.read()
        lacking = {request: request.after(self.model.fed(request)) for request in self.model.running if not request.tokens}
        for request, logits in self.model.read(lacking).items():
            left = len(request.prompt) - self.model.fed(request)
            self.statistics.tokens["prefill"] += len(lacking[request]) - left
            if not left:
                self._take(request, logits, [])

    def _write(self, requests: list[Request]) -> None:
        """Gives each request its next token, and with guesses that are right the next ones, too."""
        if not requests:
            return
        guesses = self.draft.guesses(requests) if self.draft is not None else {}
        pieces = {request: [request.tokens[-1], *guesses.get(request, [])] for request in requests}
        logits = self.model.forward(pieces, every=any(guesses.values()))
        for request in requests:
            self.statistics.tokens["decode"] -= len(request.tokens)
            self._take(request, logits[request], guesses.get(request, []))
            self.statistics.tokens["decode"] += len(request.tokens)

    def _take(self, request: Request, logits: np.ndarray, guesses: list[int]) -> None:
        """Gives a request tokens by logits (1 + guesses, vocab), and forgets the guesses that were wrong."""
        self.statistics.guessed += len(guesses)
        self.statistics.accepted += request.take(logits, guesses)
        for cache in self._caches():
            cache.rewind(request, request.length - 1)
        if request.finished:
            self._leave(request)
