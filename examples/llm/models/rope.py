"""Rotary embeddings in ordinary operators, and the frequencies that configurations ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.nn import Tensor, op

from examples.llm.config import LlamaConfig


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of the rotate-half kind: x (..., d), cos and sin broadcast to it in float32; returns x's type."""
    wide = op.astype(x, "float32")
    low, high = op.split(wide, 2, axis=-1)
    turned = op.concat([op.negative(high), low], dim=-1)
    return op.astype(wide * cos + turned * sin, x.dtype)


def angles(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cos and sin of positions (..., 1) times frequencies (d / 2,), each (..., d), the two halves alike."""
    half = positions * frequencies
    both = op.concat([half, half], dim=-1)
    emit = relax.BlockBuilder.current().emit
    return Tensor(_expr=emit(relax.op.cos(both._expr), "cos")), Tensor(_expr=emit(relax.op.sin(both._expr), "sin"))


def rotary_frequencies(config: LlamaConfig) -> np.ndarray:
    """(head_dim / 2,) float64: theta^(-2i/d), stretched by Llama 3's rule where the model asks for it."""
    frequencies = plain_frequencies(config.rope_theta, config.head_dim)
    scaling = config.rope_scaling
    if not scaling:
        return frequencies
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (smooth + (1.0 - smooth) / scaling["factor"])


def plain_frequencies(theta: float, size: int) -> np.ndarray:
    """(size / 2,) float64: theta^(-2i/size)."""
    return theta ** -(np.arange(0, size, 2) / size)


def yarn_frequencies(theta: float, size: int, scaling: Mapping[str, Any]) -> np.ndarray:
    """(size / 2,) float64: frequencies of few turns are divided by `factor`, those of many kept, and between them it is a ramp."""
    frequencies, length = plain_frequencies(theta, size), scaling["original_max_position_embeddings"]

    def dimension(turns: float) -> float:
        return size * np.log(length / (turns * 2 * np.pi)) / (2 * np.log(theta))

    low = max(np.floor(dimension(scaling.get("beta_fast") or 32)), 0)
    high = min(np.ceil(dimension(scaling.get("beta_slow") or 1)), size - 1)
    ramp = np.clip((np.arange(size // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return frequencies * (1.0 - ramp) + frequencies / scaling["factor"] * ramp
