"""Phi-3: a Llama whose checkpoint holds q/k/v and gate/up in one tensor each, as the shared parts do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from examples.llm.config import LlamaConfig

from .causal import CausalLM


@dataclass(frozen=True)
class Phi3Config(LlamaConfig):
    """Sizes of a Phi-3."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("phi3",)


class Phi3(CausalLM):
    """The model of Phi-3."""

    Config = Phi3Config
    PARTS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
