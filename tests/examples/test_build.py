"""The commands: build, convert and chat over a folder on disk, and one-line errors."""

import io

import pytest

from examples.llm import build, chat, convert_weights
from examples.llm.artifact import FILE_BYTES, StoredWeights, write_weights
from examples.llm.chat_module import ChatModule, StreamToStdout
from examples.llm.engine import shard, start
from examples.llm.quantization import packed_weights
from examples.llm.source import open_model
from tests.examples.files import CONFIG, write_folder
from tests.examples.reference import random_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model"), CONFIG, random_checkpoint(CONFIG))


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    """A folder with the model in 4 bits for two workers."""
    folder = tmp_path_factory.mktemp("dist")
    common = ["--model", str(model), "--quantization", "q4f32_1", "-o", str(folder)]
    assert build.main([*common, "--num-shards", "2", "--max-seq-len", "128"]) == 0
    assert convert_weights.main(common) == 0
    return folder


def test_an_answer_from_python(model, built, capsys):
    source = open_model(model)
    tokenizer = source.tokenizer()
    prompt = tokenizer.prompt([{"role": "user", "content": "hello"}])
    weights = dict(packed_weights(source.weights().items(), "q4f32_1"))
    with start(shard(source.config, 1, quantization="q4f32_1"), weights, max_seq_len=128) as engine:
        expected = "".join(tokenizer.stream(engine.generate(prompt, None, 8, tokenizer.stop_ids)))
    with ChatModule(model=str(built), num_shards=2) as module:
        answer = module.generate(prompt="hello", progress_callback=StreamToStdout(callback_interval=2), max_tokens=8)
        assert answer == expected
        assert capsys.readouterr().out == expected + "\n"
        assert module.stats().startswith("prefill: ")
        module.reset_chat()
        assert module.generate("hello", max_tokens=8) == expected


def test_a_conversation_from_the_command_line(built, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nagain\n"))
    assert chat.main([str(built), "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.count("> ") == 3


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        (build, ["--model", "llama-2-70b", "--target", "vulkan"], "--target: this TVM has no code generator for vulkan. Use a TVM that is"),
        (build, ["--model", "llama-2-70b", "--target", "tpu"], "--target: there is no 'tpu'. Use one of: llvm, cuda, rocm"),
        (build, ["--model", "tiny", "--quantization", "q5"], "--quantization: there is no 'q5'. Use one of: q0f32, q0f16, q4f16_1"),
        (build, ["--model", "tiny", "--use-cuda-graph"], "--use-cuda-graph: the target is llvm. Use it with --target cuda"),
        (build, ["--model", "tiny", "--num-shards", "9"], "--num-shards: 9 workers cannot share the 3 key/value heads"),
        (build, ["--model", "tiny", "--max-seq-len", "0"], "--max-seq-len: 0 is too few"),
        (convert_weights, ["--model", "nothing"], "nothing: there is no such file or folder"),
    ],
)
def test_bad_options(command, options, words, tmp_path, capsys):
    assert command.main([*options, "-o", str(tmp_path / "dist")]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("model.json", "there is no model.json in it. Run: python -m examples.llm.build"),
        ("weights.json", "there is no weights.json in it. Run: python -m examples.llm.convert_weights"),
        ("chat.json", "there is no chat.json in it. Run: python -m examples.llm.convert_weights"),
    ],
)
def test_folders_that_are_not_whole(built, tmp_path, capsys, missing, words):
    for file in built.iterdir():
        if file.name != missing:
            (tmp_path / file.name).hardlink_to(file)
    assert chat.main([str(tmp_path), "--prompt", "hello"]) == 2
    assert words in capsys.readouterr().err


def test_another_number_of_workers_is_refused(built, capsys):
    assert chat.main([str(built), "--num-shards", "3"]) == 2
    assert "it is built for 2 workers, not for 3. Leave num_shards out, or build it again" in capsys.readouterr().err


def test_weights_are_written_one_after_another(tmp_path, monkeypatch):
    """No more of them is made than is asked for, and a folder that is half written has no index."""
    import numpy as np

    monkeypatch.setattr("examples.llm.artifact.FILE_BYTES", 100)
    assert FILE_BYTES > 1 << 20
    made = []

    def weights():
        for i in range(4):
            made.append(i)
            yield f"w{i}", np.full(20, i, "float32")

    names = write_weights(tmp_path, weights())
    assert next(names) == "w0" and made == [0]
    assert not (tmp_path / "weights.json").exists()
    assert list(names) == ["w1", "w2", "w3"]
    stored = StoredWeights(tmp_path)
    assert len(set(stored.owner.values())) == 2
    assert {name: int(array[0]) for name, array in stored.items()} == {f"w{i}": i for i in range(4)}
