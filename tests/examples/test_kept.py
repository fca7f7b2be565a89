"""Weights in the blocks of a GGUF file: kept as they are, decoded in products, split among workers."""

from pathlib import Path

import numpy as np
import pytest

import spmd
from examples.llm import build, convert_weights
from examples.llm.artifact import StoredWeights
from examples.llm.config import LlamaConfig
from examples.llm.engine import METHODS, shard, start
from examples.llm.fetch import CACHE, MEMBER
from examples.llm.model import build_module
from examples.llm.quantization import FORMATS, part_name
from examples.llm.quantize import quantize
from examples.llm.source import open_model
from tests.examples.files import TOKENS, write_folder, write_gguf
from tests.examples.reference import forward, random_checkpoint

CONFIG = LlamaConfig(64, 96, 2, 4, 2, len(TOKENS), 16, max_position_embeddings=64, tie_word_embeddings=True, rope_theta=5000.0)
KINDS = {"embed_tokens.weight": "Q8_0", "self_attn.v_proj.weight": "Q4_0", "mlp.down_proj.weight": "Q4_0", "_proj.weight": "Q4_1"}
PROMPT, ANSWER = [5, 60, 200, 7, 31], [9, 4]
MODEL = CACHE / Path(MEMBER).name


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("file") / "model.gguf", CONFIG, random_checkpoint(CONFIG), kinds=KINDS)


def test_what_is_kept(file):
    """Blocks of one type, to the bit; parts of several types are made float, and so is what has no blocks."""
    source = open_model(file)
    formats, floats, packed = source.formats(), source.weights(), dict(source.packed())
    kinds = {name.split(".")[-2]: kind for name, kind in formats.items()}
    assert kinds == {"embed_tokens": "q8_0", "o_proj": "q4_1", "gate_up_proj": "q4_1", "down_proj": "q4_0"}  # of q, k and v, v is another
    for name, array in floats.items():
        form = FORMATS.get(formats.get(name, ""))
        if form is None:
            assert (packed[name] == array).all()
        else:
            parts = {part: packed[part_name(name, part)] for part in form.parts(array.shape, "float32")}
            assert (form.unpack(parts, array.shape[-1], "float32") == array).all()


def test_logits_on_two_workers(file):
    """Those of the floats that the blocks stand for."""
    source = open_model(file)
    module = quantize(build_module(source.config, methods=METHODS)[0], source.formats())
    sharded = spmd.shard(module, 2, profile=spmd.testing.FREE_LINKS)
    assert not [n for n, s in sharded.plan.params.items() if n.endswith("proj.q_weight") and s.is_replicated]
    with start(sharded, dict(source.packed()), max_seq_len=16) as engine:
        found = engine.score(PROMPT, ANSWER)
    checkpoint = {name: source._read(name) for name in random_checkpoint(CONFIG)}
    expected = forward(CONFIG, checkpoint, PROMPT + ANSWER)[len(PROMPT) - 1 : -1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_converter_keeps_them(file, tmp_path):
    assert convert_weights.main(["--model", str(file), "--quantization", "gguf", "-o", str(tmp_path)]) == 0
    assert {n: a.shape for n, a in StoredWeights(tmp_path).items()} == {n: a.shape for n, a in open_model(file).packed()}


def test_what_has_no_blocks_is_refused(tmp_path, capsys):
    folder = write_folder(tmp_path / "folder", CONFIG, random_checkpoint(CONFIG))
    for model, words in ((str(folder), "it is no .gguf file, whose weights could be kept"), ("tiny", "and tiny is a preset. Give a .gguf")):
        assert build.main(["--model", model, "--quantization", "gguf", "-o", str(tmp_path / "dist")]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.exists(), reason="run `python -m examples.llm.fetch` first")
def test_smollm2_in_its_own_blocks():
    source, answers = open_model(MODEL), []
    assert set(source.formats().values()) == {"q4_1", "q8_0"}
    tokenizer = source.tokenizer()
    prompt = tokenizer.prompt([{"role": "user", "content": "What is the capital of France?"}])
    for workers in (1, 2, 3):
        with start(shard(source.config, workers, quantization=source.formats()), dict(source.packed()), max_seq_len=64) as engine:
            answers.append(list(engine.generate(prompt, max_tokens=12, stop_ids=tokenizer.stop_ids)))
    assert answers[1:] == answers[:1] * 2
    assert tokenizer.decode(answers[0]).startswith("The capital of France is Paris.")
