"""The commands: build, convert and chat over a folder on disk, and one-line errors."""

import io
import re

import pytest

from examples.llm import build, chat, convert_weights, generate
from examples.llm.chat_module import ChatModule, StreamToStdout
from examples.llm.engine import shard, start
from examples.llm.quantization import packed_weights
from examples.llm.source import open_model
from tests.examples.files import CONFIG, write_folder
from tests.examples.reference import random_checkpoint
from tests.mpi import mpirun


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
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/stats\n/reset\nhello\n/what\n/exit\nnever\n"))
    assert chat.main([str(built), "--draft", str(built), "--max-tokens", "4"]) == 0
    answer, stats, reset, again, what, ended = capsys.readouterr().out.split("> ")[1:]
    assert re.match(r"prefill: [\d.]+ tok/s, decode: [\d.]+ tok/s, draft: (\d) of \1 guesses accepted \(100%\)\n$", stats)
    assert again == answer and reset == ended == ""
    assert what.startswith("There is no command /what.\n/help") and "/stats  tokens a second" in what


def test_many_prompts(built, tmp_path, capsys):
    """Together they are answered as alone, from Python and from the command line, by threads and by processes."""
    prompts = ["hello", "hello hello hello hello hello hello", "x", "hell"]
    with ChatModule(str(built), max_batch=3) as module:
        expected = [module.generate(prompt, max_tokens=6) for prompt in prompts if not module.reset_chat()]
        assert module.generate(prompts, max_tokens=6) == expected
    (tmp_path / "prompts.txt").write_text("\n".join([*prompts, ""]))
    options = [str(built), str(tmp_path / "prompts.txt"), "--max-tokens", "6"]
    assert generate.main(options) == 0
    out = capsys.readouterr().out
    assert out.startswith("".join(f"> {prompt}\n{answer}\n\n" for prompt, answer in zip(prompts, expected, strict=True)) + "[prefill: ")


@pytest.mark.mpi
def test_many_prompts_by_processes(built, tmp_path):
    (tmp_path / "prompts.txt").write_text("hello\nhell\nhello hello\n")
    options = [built, tmp_path / "prompts.txt", "--max-tokens", 6, "--draft", built]
    ended = mpirun(2, "-m", "examples.llm.generate", *options, "--backend", "mpi")
    assert ended.code == 0, ended.err
    with ChatModule(str(built)) as module:
        answers = module.generate(["hello", "hell", "hello hello"], max_tokens=6)
    assert ended.out.count("> ") == 3 and all(f"\n{answer}\n\n" in ended.out for answer in answers)


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
