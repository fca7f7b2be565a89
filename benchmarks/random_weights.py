"""Weights of models that have none, for what takes the same time whatever they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from examples.llm.config import LlamaConfig
from examples.llm.model import build_module

NUMBERS = 1_000_003
"""Random numbers that weights are made of: a prime, so that no two rows are the same."""


class RandomWeights(Mapping[str, np.ndarray]):
    """Each is made when it is asked for, so that what a layer gives is about as large as what it takes."""

    def __init__(self, config: LlamaConfig, methods: Sequence[str]) -> None:
        self._shapes = build_module(config, methods=methods)[1]
        self._numbers = np.random.default_rng(0).standard_normal(NUMBERS, "float32")

    def __getitem__(self, name: str) -> np.ndarray:
        shape, dtype = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, dtype)
        first = sum(name.encode()) * 7919 % NUMBERS
        return (np.resize(np.roll(self._numbers, first), shape) / math.sqrt(shape[-1])).astype(dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
