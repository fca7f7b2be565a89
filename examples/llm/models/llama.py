"""Llama 2 and 3, CodeLlama, and Mistral, which looks back a window of tokens: the model that the shared parts make as they are."""

from __future__ import annotations

from .causal import CausalLM


class Llama(CausalLM):
    """Pre-norm layers of grouped-query attention and a gated MLP."""
