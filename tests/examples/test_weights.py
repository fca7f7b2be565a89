"""Reading checkpoints: names, fusing, q and k rows, and broken files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from examples.llm.config import LlamaConfig
from examples.llm.errors import ModelError
from examples.llm.model import build_module
from examples.llm.source import open_model
from examples.llm.weights import gguf_name, hf_sources, unpermute
from tests.examples.files import CONFIG, llama_cpp_permute, write_folder, write_gguf
from tests.examples.reference import random_checkpoint

UNTIED = replace(CONFIG, tie_word_embeddings=False)


def test_unpermute_undoes_llama_cpp():
    rows = np.arange(3 * 8 * 5).reshape(24, 5)
    assert (unpermute(llama_cpp_permute(rows, 3), 3) == rows).all()
    assert unpermute(np.array([0, 1, 2, 3, 4, 5, 6, 7]), 1).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_unpermuted_rows_turn_alike():
    """llama.cpp turns neighbours (2i, 2i+1), rotate-half turns (i, i + d/2): the scores must be the same."""
    random = np.random.default_rng(0)
    q, k, angle = random.standard_normal(8), random.standard_normal(8), random.uniform(0, 6, 4)

    def neighbours(x):
        pairs = x.reshape(4, 2)
        turned = [pairs[:, 0] * np.cos(angle) - pairs[:, 1] * np.sin(angle)]
        turned += [pairs[:, 1] * np.cos(angle) + pairs[:, 0] * np.sin(angle)]
        return np.stack(turned, 1).ravel()

    def halves(x):
        a, b = x[:4], x[4:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])

    np.testing.assert_allclose(neighbours(q) @ k, halves(unpermute(q, 1)) @ unpermute(k, 1))


def test_gguf_names():
    assert gguf_name("model.layers.12.self_attn.o_proj.weight") == "blk.12.attn_output.weight"
    assert gguf_name("lm_head.weight") == "output.weight"


@pytest.mark.parametrize("name", ["tiny", "llama-2-7b"])
def test_sources_follow_the_parameter_order(name):
    config = LlamaConfig.preset(name)
    assert list(hf_sources(config)) == list(build_module(config, methods=["embed"])[1])


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("files", [1, 3])
def test_folder_is_fused(tmp_path, config, files):
    checkpoint = random_checkpoint(config)
    source = open_model(write_folder(tmp_path, config, checkpoint, files))
    assert source.config == config
    weights = source.weights()
    _, expected = build_module(config, methods=["embed"])
    assert {name: (array.shape, str(array.dtype)) for name, array in weights.items()} == expected
    parts = [checkpoint[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert (weights["model.layers.1.self_attn.qkv_proj.weight"] == np.concatenate(parts)).all()
    parts = [checkpoint[f"model.layers.0.mlp.{part}_proj.weight"] for part in ("gate", "up")]
    assert (weights["model.layers.0.mlp.gate_up_proj.weight"] == np.concatenate(parts)).all()


def test_folder_without_index(tmp_path):
    write_folder(tmp_path, CONFIG, random_checkpoint(CONFIG), files=2)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert len(open_model(tmp_path).weights()) == len(hf_sources(CONFIG))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_folder_in_half_precision(tmp_path, stored):
    checkpoint = random_checkpoint(CONFIG)
    source = open_model(write_folder(tmp_path, CONFIG, checkpoint, dtype=stored))
    weights = source.weights("float16")
    assert {str(array.dtype) for array in weights.values()} == {"float16"}
    np.testing.assert_allclose(weights["model.norm.weight"], checkpoint["model.norm.weight"], rtol=1e-2)


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_gguf_equals_folder(tmp_path, config):
    checkpoint = random_checkpoint(config)
    folder = open_model(write_folder(tmp_path / "folder", config, checkpoint))
    file = open_model(write_gguf(tmp_path / "model.gguf", config, checkpoint))
    assert replace(file.config, rms_norm_eps=config.rms_norm_eps) == folder.config
    assert file.config.rms_norm_eps == pytest.approx(config.rms_norm_eps)
    one, other = folder.weights(), file.weights()
    assert list(one) == list(other)
    assert all((one[name] == other[name]).all() for name in one)


def test_broken_folders(tmp_path):
    checkpoint = random_checkpoint(CONFIG)
    folder = write_folder(tmp_path, CONFIG, checkpoint)
    index = folder / "model.safetensors.index.json"

    index.write_text(json.dumps({"weight_map": {"x": "model-9.safetensors"}}))
    with pytest.raises(ModelError, match=r"no model-9\.safetensors"):
        open_model(folder).weights()

    index.unlink()
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="weights are broken"):
        open_model(folder).weights()

    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no tensor 'model\.embed_tokens\.weight'"):
        open_model(folder).weights()

    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\*\.safetensors"):
        open_model(folder).weights()

    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        open_model(folder)


def test_wrong_shape_names_the_tensor(tmp_path):
    folder = write_folder(tmp_path, CONFIG, random_checkpoint(replace(CONFIG, intermediate_size=96)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 80}))
    with pytest.raises(
        ModelError, match=r"mlp\.gate_proj\.weight' has shape \(96, 48\).*\(160, 48\) for 'model\.layers\.0\.mlp\.gate_up_proj"
    ):
        open_model(folder).weights()


def test_no_gguf(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a GGUF file"):
        open_model(file)
    file.write_bytes(b"GGUF\x03\x00\x00\x00cut off")
    with pytest.raises(ModelError, match="broken"):
        open_model(file)
    with pytest.raises(ModelError, match=r"no such file.*examples\.llm\.fetch"):
        open_model(tmp_path / "nothing")


def test_gguf_without_a_tensor(tmp_path):
    checkpoint = random_checkpoint(CONFIG)
    del checkpoint["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelError, match=r"'blk\.1\.ffn_up\.weight' is missing"):
        open_model(write_gguf(tmp_path / "model.gguf", CONFIG, checkpoint)).weights()
