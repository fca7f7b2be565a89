"""Which token comes next."""

from __future__ import annotations

import numpy as np


class Sampler:
    """Greedy at temperature 0, else a draw from the likeliest tokens of probability `top_p`; `seed` repeats it."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0):
        self.temperature, self.top_p = temperature, top_p
        self.random = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray) -> int:
        """(vocab,) -> token number."""
        if self.temperature <= 0.0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self.temperature
        probability = np.exp(scaled - scaled.max())
        probability /= probability.sum()
        order = np.argsort(-probability, kind="stable")
        before = np.cumsum(probability[order]) - probability[order]
        kept = order[before < self.top_p]
        return int(self.random.choice(kept, p=probability[kept] / probability[kept].sum()))
