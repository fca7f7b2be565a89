"""Configurations from presets, Hugging Face and GGUF, and what is refused."""

import json
from dataclasses import replace

import pytest

from examples.llm.config import PRESETS, LlamaConfig
from examples.llm.errors import ModelError

HF = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "rms_norm_eps": 1e-6,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
GGUF = {
    "general.architecture": "llama",
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
    "llama.vocab_size": 100,
}


def test_hugging_face_defaults():
    config = LlamaConfig.from_hf(HF)
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (4, 16, 10000.0)
    assert config.rms_norm_eps == 1e-6
    assert not config.tie_word_embeddings
    assert config.rope_scaling == {}


def test_hugging_face_says_more():
    more = {"num_key_value_heads": 2, "head_dim": 32, "rope_theta": 5e5, "tie_word_embeddings": True}
    config = LlamaConfig.from_hf({**HF, **more})
    assert config.qkv_sizes == (128, 64, 64)
    assert config.rope_theta == 5e5
    assert config.tie_word_embeddings


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_llama3_rope_scaling(key):
    config = LlamaConfig.from_hf({**HF, key: {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}})
    assert config.rope_scaling == {"rope_type": "llama3", **LLAMA3}
    assert config.rope_theta == 5e5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, ["config.json", "'gpt2'", "'llama'"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "'silu'"]),
        ({"attention_bias": True}, ["attention_bias", "True"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, ["RoPE", "'yarn'", "llama3"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, ["low_freq_factor"]),
        ({"num_attention_heads": 0}, ["num_attention_heads", "0"]),
        ({"vocab_size": "many"}, ["vocab_size", "'many'"]),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, ["4 attention heads", "3 key/value heads"]),
        ({"head_dim": 15}, ["head_dim", "15", "even"]),
    ],
)
def test_hugging_face_refused(change, words):
    with pytest.raises(ModelError) as caught:
        LlamaConfig.from_hf({**HF, **change})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_hugging_face_missing_key():
    with pytest.raises(ModelError, match="'intermediate_size' is missing"):
        LlamaConfig.from_hf({key: value for key, value in HF.items() if key != "intermediate_size"})


def test_gguf():
    config = LlamaConfig.from_gguf({**GGUF, "llama.rope.freq_base": 1e5, "llama.attention.head_count_kv": 2}, {})
    expected = LlamaConfig.from_hf({**HF, "num_key_value_heads": 2, "rope_theta": 1e5, "tie_word_embeddings": True})
    assert config == expected
    assert not LlamaConfig.from_gguf(GGUF, {"output.weight": None}).tie_word_embeddings


@pytest.mark.parametrize(
    ("change", "tensors", "words"),
    [
        ({"general.architecture": "mamba"}, {}, "architecture 'mamba'"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "RoPE scaling 'yarn'"),
        ({}, {"rope_freqs.weight": None}, "rope_freqs.weight"),
        ({"llama.expert_count": 8}, {}, "8 experts"),
        ({"llama.rope.dimension_count": 8}, {}, "8 of the 16"),
        ({"llama.attention.head_count": [4, 2]}, {}, r"\[4, 2\]"),
        ({"llama.attention.head_count_kv": [4, 2]}, {}, r"head_count_kv' is \[4, 2\]"),
    ],
)
def test_gguf_refused(change, tensors, words):
    with pytest.raises(ModelError, match=words):
        LlamaConfig.from_gguf({**GGUF, **change}, tensors)


def test_presets():
    large = LlamaConfig.preset("llama-2-70b")
    assert (large.hidden_size, large.num_attention_heads, large.num_key_value_heads) == (8192, 64, 8)
    assert (large.intermediate_size, large.num_hidden_layers, large.vocab_size) == (28672, 80, 32000)
    assert large.qkv_sizes == (8192, 1024, 1024)
    with pytest.raises(ModelError, match="llama-2-70b"):
        LlamaConfig.preset("llama-9")


def test_presets_round_trip_through_hugging_face():
    for config in PRESETS.values():
        settings = {key: value for key, value in config.__dict__.items() if key != "dtype"}
        assert LlamaConfig.from_hf(json.loads(json.dumps({"model_type": "llama", **settings}))) == config


def test_dtype():
    assert LlamaConfig.preset("tiny").with_dtype("float16").dtype == "float16"
    with pytest.raises(ModelError, match="float8"):
        replace(LlamaConfig.preset("tiny"), dtype="float8")
