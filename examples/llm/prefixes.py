"""The prefix cache: a request begins with the pages of another that has the same first tokens, running or ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .request import Request
from .sequences import PAGE_SIZE, PREFILL_CHUNK, Sequences


class PrefixCache:
    """The requests that run on a model, and sequences that have ended and keep their pages until those are needed.

    Pages are promised to a request when it begins, for all tokens that it may get: what runs never lacks one.
    """

    def __init__(self, sequences: Sequences, shares: bool = True) -> None:
        self.sequences, self.shares = sequences, shares and sequences.forks
        self.running: dict[Request, int] = {}
        self._ended: dict[int, None] = {}
        """In the order in which they were last of use."""

    def begin(self, request: Request) -> bool:
        """Makes a sequence of the pages that the prompt, but for its last token, has in common with another.

        False where the request has to wait: for pages, or for one that is about to read what both have in common.
        """
        parent, shared = self._nearest(request.prompt[:-1])
        if any(common(request.prompt[:-1], other.prompt) > max(shared, self.fed(other)) for other in self.running if self.shares):
            return False
        sequence = self.sequences.add() if parent is None else self.sequences.fork(parent, shared)
        if parent in self._ended:
            self._ended[parent] = self._ended.pop(parent)
        while self._unpromised() < pages(request.longest) - pages(shared):
            if not self._ended:
                self.sequences.remove(sequence)
                return False
            self._drop(next(iter(self._ended)))
        self.running[request] = sequence
        return True

    def end(self, request: Request) -> None:
        """The request will get no more tokens; what has ended before with a part of them is dropped."""
        sequence = self.running.pop(request)
        ids = self.sequences.ids[sequence]
        for other in [other for other in self._ended if self.sequences.ids[other] == ids[: len(self.sequences.ids[other])]]:
            self._drop(other)
        self._ended[sequence] = None
        if not self.shares or len(ids) < PAGE_SIZE:
            self._drop(sequence)

    def fed(self, request: Request) -> int:
        """How many tokens of a request are in the cache."""
        return len(self.sequences.ids[self.running[request]])

    def forward(self, pieces: Mapping[Request, list[int]], every: bool = False) -> dict[Request, np.ndarray]:
        """As `Sequences.forward`, by request."""
        found = self.sequences.forward({self.running[request]: piece for request, piece in pieces.items()}, every)
        return {request: found[self.running[request]] for request in pieces}

    def read(self, lacking: Mapping[Request, list[int]]) -> dict[Request, np.ndarray]:
        """Feeds of the tokens that requests lack what goes into one call, the first requests first; logits (1, vocab) after the last."""
        left, pieces = PREFILL_CHUNK, dict[Request, list[int]]()
        for request, tokens in lacking.items():
            if piece := tokens[: min(left, self.sequences.chunk)]:
                pieces[request] = piece
                left -= len(piece)
        return self.forward(pieces) if pieces else {}

    def rewind(self, request: Request, length: int) -> None:
        """Keeps the first `length` tokens of a request."""
        self.sequences.rewind(self.running[request], length)

    def _nearest(self, prompt: Sequence[int]) -> tuple[int | None, int]:
        """The sequence that has most pages in common with a prompt, and how many tokens these are."""
        best: int | None = None
        shared = 0
        for sequence, ids in self.sequences.ids.items() if self.shares else ():
            if (length := common(prompt, ids)) > shared:
                best, shared = sequence, length
        return best, shared

    def _unpromised(self) -> int:
        """Free pages that no running request may come to need."""
        return self.sequences.free_pages() - sum(pages(request.longest) - pages(self.fed(request)) for request in self.running)

    def _drop(self, sequence: int) -> None:
        del self._ended[sequence]
        self.sequences.remove(sequence)


def pages(tokens: int) -> int:
    """How many pages so many tokens take."""
    return -(-tokens // PAGE_SIZE)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens of two lists are equal from the first on, in whole pages."""
    length = 0
    while len(page := a[length : length + PAGE_SIZE]) == PAGE_SIZE and page == b[length : length + PAGE_SIZE]:
        length += PAGE_SIZE
    return length
