"""The command line: answers, conversations, and one-line errors with exit code 2."""

import io

import pytest

from examples.llm import chat
from examples.llm.source import open_model
from tests.examples.files import CONFIG, write_folder, write_gguf
from tests.examples.reference import greedy, random_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", CONFIG, random_checkpoint(CONFIG))


def ask(model, *more: str) -> int:
    return chat.main(["--model", str(model), "--max-tokens", "8", *more])


def test_an_answer(model, capsys):
    assert ask(model, "--prompt", "hello") == 0
    source = open_model(model)
    tokenizer = source.tokenizer()
    prompt = tokenizer.prompt([{"role": "user", "content": "hello"}])
    answer = greedy(source.config, random_checkpoint(CONFIG), prompt, 8)
    answer = answer[: answer.index(0)] if 0 in answer else answer
    assert capsys.readouterr().out == "".join(tokenizer.stream(answer)) + "\n"


def test_a_conversation(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nagain\n"))
    assert ask(model, "--temperature", "0.7", "--top-p", "0.9", "--seed", "4") == 0
    assert capsys.readouterr().out.count("> ") == 4


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--num-shards", "4"], "--num-shards: 4 workers cannot share the 3 key/value heads of this model"),
        (["--num-shards", "0"], "--num-shards: 0 workers"),
        (["--max-tokens", "0"], "--max-tokens: 0 is too few"),
        (["--max-seq-len", "-3"], "--max-seq-len: -3 is too few"),
        (["--temperature", "-1"], "--temperature: -1.0 is negative"),
        (["--dtype", "int4"], "dtype 'int4' is not supported. Use float32 or float16."),
        (["--top-p", "0"], "--top-p: 0.0 is no probability"),
    ],
)
def test_bad_options(model, capsys, more, words):
    assert ask(model, "--prompt", "hello", *more) == 2
    check_error(capsys, words)


def test_prompt_longer_than_the_cache(model, capsys):
    assert ask(model, "--prompt", "x" * 40, "--max-seq-len", "32") == 2
    check_error(capsys, "42 tokens do not fit into the cache of 32")


def test_bad_path(tmp_path, capsys):
    assert ask(tmp_path / "missing.gguf", "--prompt", "hello") == 2
    check_error(capsys, "missing.gguf: there is no such file or folder. Give a .gguf file")


def test_unknown_architecture(tmp_path, capsys):
    path = write_gguf(tmp_path / "other.gguf", CONFIG, {}, architecture="falcon")
    assert ask(path, "--prompt", "hello") == 2
    check_error(capsys, "architecture 'falcon' is not supported. Use a GGUF file of a 'llama' model")


def test_broken_folder(tmp_path, capsys):
    folder = write_folder(tmp_path, CONFIG, random_checkpoint(CONFIG))
    (folder / "tokenizer.json").unlink()
    assert ask(folder, "--prompt", "hello") == 2
    check_error(capsys, "there is no tokenizer.json in it. Give a complete Hugging Face folder")


def check_error(capsys, words: str) -> None:
    """One line on standard error with these words, and no answer."""
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert out == ""
