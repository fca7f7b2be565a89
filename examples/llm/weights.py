"""Names, fusing and the row order of weights: what a checkpoint holds against what the model takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np

from .config import LlamaConfig
from .errors import ModelError
from .models import model_class
from .models.causal import CausalLM

Read = Callable[[str], np.ndarray]
"""Reads one tensor of a checkpoint by the checkpoint's name, in the model's row order."""


def hf_sources(config: LlamaConfig) -> dict[str, tuple[str, ...]]:
    """{model's name: the Hugging Face tensors that stand one under another in it}, in parameter order."""
    model = model_class(config.model_type)
    return {name: _sources(model, name, shape) for name, shape in parameter_shapes(config).items()}


def parameter_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the model's weights, in parameter order."""
    named = model_class(config.model_type)(config).named_parameters()
    return {name: tuple(int(size) for size in parameter.shape) for name, parameter in named}


def _sources(model: type[CausalLM], name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    path, kind = name.rsplit(".", 1)
    found = [path]
    for ours, theirs in model.PARTS.items():
        if path.endswith(f".{ours}"):
            stem = path.removesuffix(ours)
            each = range(shape[0]) if "{e}" in theirs[0] else [0]
            found = [f"{stem}{part.format(e=e)}" for e in each for part in theirs]
    for ours, theirs in model.NAMES:
        found = [path.replace(ours, theirs) for path in found]
    return tuple(f"{path}.{kind}" for path in found)


def tensors(config: LlamaConfig, read: Read, source: str, only: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """(model's name, array in `config.dtype`) of each weight, or of `only` those, fused: one at a time is in memory.

    Raises ModelError for a shape that the sizes do not say.
    """
    model, shapes = model_class(config.model_type), parameter_shapes(config)
    for name, parts in hf_sources(config).items():
        if only is not None and name not in only:
            continue
        arrays = [read(part) for part in parts]
        joined = model.adjusted(config, name, arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        if joined.shape[1:] != shapes[name][-joined.ndim + 1 :] * (joined.ndim > 1) or joined.size != math.prod(shapes[name]):
            found = ", ".join(f"'{part}' has shape {array.shape}" for part, array in list(zip(parts, arrays, strict=True))[:3])
            raise ModelError(source, f"{found}, and its configuration says {shapes[name]} for '{name}'", "Use files of one model.")
        yield name, np.ascontiguousarray(joined.reshape(shapes[name]).astype(config.dtype, copy=False))


def assemble(config: LlamaConfig, read: Read, source: str) -> dict[str, np.ndarray]:
    """{model's name: array} in `config.dtype`, fused; raises ModelError for a shape that the sizes do not say."""
    return dict(tensors(config, read, source))


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's row order of q and k: rows (2i, 2i+1) of a head go back to (i, i + d/2), as rotate-half wants.

    rows: (heads * d, ...). llama.cpp's convert script does reshape(heads, 2, d/2).swapaxes(1, 2).
    """
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


GGUF_NAMES: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor: model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight."""
    kind = name.removesuffix(".weight")
    if not kind.startswith("model.layers."):
        return f"{GGUF_NAMES[kind]}.weight"
    _, _, index, part = kind.split(".", 3)
    return f"blk.{index}.{GGUF_NAMES[part]}.weight"
