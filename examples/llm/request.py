"""What is asked of a batch, and what is counted while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

Choose = Callable[[np.ndarray], int]
"""Logits (vocab,) to the next token."""


@dataclass(eq=False)
class Request:
    """A prompt, and the tokens that have followed it so far."""

    prompt: list[int]
    choose: Choose
    stop_ids: Collection[int]
    longest: int
    """The most tokens of it that a cache will hold: the last one is given out and not fed."""
    tokens: list[int] = field(default_factory=list)
    finished: str = ""
    """Why it ended, "stop", "length" or "cancelled"; empty before."""

    @property
    def length(self) -> int:
        """How many tokens there are of it, the prompt's and those that followed."""
        return len(self.prompt) + len(self.tokens)

    def after(self, start: int) -> list[int]:
        """Its tokens from number `start` on."""
        surplus = start - len(self.prompt)
        return self.tokens[surplus:] if surplus >= 0 else self.prompt[start:] + self.tokens

    def take(self, logits: np.ndarray, guesses: list[int]) -> int:
        """Chooses a token by each row of logits (1 + guesses, vocab) until one is not what was guessed; how many guesses were right."""
        right = 0
        for row, guess in zip(logits, [*guesses, None], strict=True):
            token = self.choose(row)
            right += token == guess
            if token in self.stop_ids:
                self.finished = "stop"
                break
            self.tokens.append(token)
            if self.length > self.longest:
                self.finished = "length"
                break
            if token != guess:
                break
        return right


@dataclass
class Statistics:
    """Tokens and seconds."""

    tokens: dict[str, int] = field(default_factory=lambda: {"prefill": 0, "decode": 0})
    """Those of prompts that were fed, and those that were given out after the first of each answer."""
    seconds: dict[str, float] = field(default_factory=lambda: {"prefill": 0.0, "decode": 0.0})
    shared: int = 0
    """Tokens of prompts that were in the cache already."""
    guessed: int = 0
    accepted: int = 0
    """Tokens that a draft model gave, and those of them that the model would have chosen."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the time of a block."""
        began = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - began

    def __str__(self) -> str:
        rates = {stage: self.tokens[stage] / seconds if seconds else 0.0 for stage, seconds in self.seconds.items()}
        told = [f"{stage}: {rate:.1f} tok/s" for stage, rate in rates.items()]
        if self.shared:
            told.append(f"prefix cache: {self.shared} of {self.shared + self.tokens['prefill']} prompt tokens")
        if self.guessed:
            told.append(f"draft: {self.accepted} of {self.guessed} guesses accepted ({self.accepted / self.guessed:.0%})")
        return ", ".join(told)
