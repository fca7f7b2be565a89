"""A draft model: a smaller one that guesses the next tokens, which the model then checks in one call."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import ModelError
from .prefixes import PrefixCache
from .request import Request
from .sequences import MAX_DRAFT, Sequences


class Draft:
    """Guesses up to `ahead` tokens of each request, the likeliest ones by the draft model, for all requests together."""

    def __init__(self, sequences: Sequences, ahead: int, shares: bool) -> None:
        if not 1 <= ahead <= MAX_DRAFT:
            raise ModelError("draft_tokens", f"{ahead} tokens ahead", f"Give a number from 1 to {MAX_DRAFT}.")
        self.cache, self.ahead = PrefixCache(sequences, shares), ahead

    def read(self) -> None:
        """Feeds the next piece of what the draft model lacks, but the last tokens, one or two, which `guesses` feeds."""
        lacking = [request for request in self.cache.running if self._lacks(request) > 2]
        self.cache.read({request: request.after(self.cache.fed(request))[:-1] for request in lacking})

    def guesses(self, requests: Iterable[Request]) -> dict[Request, list[int]]:
        """The tokens that may follow each request: none where the draft model has not read it yet, or where there is no room for one."""
        found = {request: list[int]() for request in requests if self._lacks(request) <= 2}
        while guessing := [r for r, guessed in found.items() if len(guessed) < min(self.ahead, r.longest - r.length)]:
            lacking = {r: found[r][-1:] or r.after(self.cache.fed(r)) for r in guessing}
            for request, logits in self.cache.forward(lacking).items():
                found[request].append(int(logits[-1].argmax()))
        return found

    def _lacks(self, request: Request) -> int:
        return request.length - self.cache.fed(request)
