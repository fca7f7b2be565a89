"""Decoders, each a short file on shared parts: which class makes the model of a Hugging Face `model_type`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from examples.llm.config import LlamaConfig
from examples.llm.errors import ModelError

from .causal import CausalLM

MODELS: Mapping[str, str] = {
    "llama": "llama.Llama",
    "mistral": "llama.Llama",
    "qwen2": "qwen.Qwen2",
    "qwen3": "qwen.Qwen3",
    "qwen3_moe": "qwen.Qwen3Moe",
    "gemma2": "gemma.Gemma2",
    "gemma3_text": "gemma.Gemma3",
    "phi3": "phi3.Phi3",
    "olmo2": "olmo2.Olmo2",
    "gpt2": "gpt2.GPT2",
    "gpt_neox": "gpt_neox.GPTNeoX",
    "mixtral": "mixtral.Mixtral",
    "deepseek_v2": "deepseek.DeepSeek",
    "deepseek_v3": "deepseek.DeepSeek",
}
"""{model_type: the file of this folder and the class in it}."""


def model_class(model_type: str, source: str = "config.json") -> type[CausalLM]:
    """The class of a `model_type`; raises ModelError with the list of those there are."""
    if model_type not in MODELS:
        raise ModelError(source, f"model_type '{model_type}' is not supported", f"Use one of: {', '.join(MODELS)}.")
    file, name = MODELS[model_type].split(".")
    return getattr(import_module(f"{__name__}.{file}"), name)


def read_config(settings: Mapping[str, Any], source: str = "config.json") -> LlamaConfig:
    """The configuration of the contents of a Hugging Face `config.json`, of the class that its `model_type` needs."""
    return model_class(settings.get("model_type", ""), source).Config.from_hf(settings, source)
