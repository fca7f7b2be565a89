"""Tiny models on disk, written for the tests: a Hugging Face folder and a GGUF file of the same random Llama."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
from gguf.quants import quantize
from safetensors.numpy import save_file
from tokenizers.pre_tokenizers import ByteLevel

from examples.llm.config import LlamaConfig
from examples.llm.tokenizer import tokenizer_from_gguf
from examples.llm.weights import gguf_name
from tests.examples.reference import Weights

WORDS = ("Ġhello", "Ġh", "Ġhe", "Ġhel", "Ġhell")
SPECIAL = ("<|end|>", "<|user|>", "<|answer|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + ('user' if m.role == 'user' else 'answer') + '|>' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|answer|>' }}{% endif %}"
)
TOKENS = (*SPECIAL, *sorted(ByteLevel.alphabet()), *WORDS)
"""Every byte, a few merged words, three special tokens: 264 in all."""

TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": list(TOKENS),
    "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)),
    "tokenizer.ggml.merges": ["Ġ h", "Ġh e", "Ġhe l", "Ġhel l", "Ġhell o"],
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.chat_template": TEMPLATE,
}

CONFIG = LlamaConfig(48, 80, 2, 6, 3, len(TOKENS), 8, max_position_embeddings=128, tie_word_embeddings=True, rope_theta=5000.0)


def llama_cpp_permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """The row order that llama.cpp's convert script gives q and k."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, config: LlamaConfig, weights: Weights, architecture: str = "llama", kinds: Mapping[str, str] = {}) -> Path:
    """The model as a GGUF file, q and k permuted: float32, but for tensors whose name ends as one of `kinds`, which are quantized so."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENIZER["tokenizer.ggml.tokens"])
    writer.add_token_types(TOKENIZER["tokenizer.ggml.token_type"])
    writer.add_token_merges(TOKENIZER["tokenizer.ggml.merges"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    for name, array in weights.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        array = llama_cpp_permute(array, heads) if heads else array
        kind = next((gguf.GGMLQuantizationType[kind] for end, kind in kinds.items() if name.endswith(end)), None)
        writer.add_tensor(gguf_name(name), array if kind is None else quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_folder(path: Path, config: LlamaConfig, weights: Weights, files: int = 2, dtype: str = "float32") -> Path:
    """The model as a Hugging Face folder, its tensors dealt out to `files` safetensors files with an index."""
    path.mkdir(exist_ok=True)
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    keys += ("vocab_size", "head_dim", "rms_norm_eps", "rope_theta", "max_position_embeddings", "tie_word_embeddings")
    settings = {"model_type": "llama", "eos_token_id": 0, **{key: getattr(config, key) for key in keys}}
    (path / "config.json").write_text(json.dumps(settings))
    arrays = {name: array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) for name, array in weights.items()}
    names = sorted(arrays)
    owner = {name: f"model-{i % files + 1:05}-of-{files:05}.safetensors" for i, name in enumerate(names)}
    for file in set(owner.values()):
        save_file({name: arrays[name] for name in names if owner[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": owner}))
    tokenizer_from_gguf(TOKENIZER, "test").tokenizer.save(str(path / "tokenizer.json"))
    special = {"bos_token": "<|user|>", "eos_token": {"content": "<|end|>"}, "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(special))
    return path
