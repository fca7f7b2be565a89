"""Text to tokens and back, streaming, and chat templates."""

import pytest

from examples.llm.errors import ModelError
from examples.llm.source import open_model
from examples.llm.tokenizer import tokenizer_from_gguf
from tests.examples.files import CONFIG, TOKENIZER, write_folder
from tests.examples.reference import random_checkpoint

TEXT = "say hello 42 times, naïve 日本 🙂\n\tdone"


def test_round_trip():
    tokenizer = tokenizer_from_gguf(TOKENIZER, "test")
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert "".join(tokenizer.stream(ids)) == TEXT
    assert TOKENIZER["tokenizer.ggml.tokens"].index("Ġhello") in ids
    assert len(tokenizer.encode("42")) == 2


def test_a_character_is_streamed_whole():
    tokenizer = tokenizer_from_gguf(TOKENIZER, "test")
    assert list(tokenizer.stream(tokenizer.encode("é🙂a"))) == ["é", "🙂", "a"]


def test_special_tokens():
    tokenizer = tokenizer_from_gguf(TOKENIZER, "test")
    assert tokenizer.stop_ids == {0}
    assert tokenizer.encode("<|user|>a")[0] == 1
    assert tokenizer.decode([1, *tokenizer.encode("a"), 0]) == "a"


def test_prompt():
    tokenizer = tokenizer_from_gguf(TOKENIZER, "test")
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    a, b, c = tokenizer.encode("abc")
    assert tokenizer.prompt(messages) == [1, a, 2, b, 1, c, 2]


def test_prompt_without_template():
    plain = {key: value for key, value in TOKENIZER.items() if key != "tokenizer.chat_template"}
    tokenizer = tokenizer_from_gguf(plain, "test")
    assert tokenizer.prompt([{"role": "user", "content": "abc"}]) == tokenizer.encode("abc")


def test_template_that_refuses():
    template = "{{ raise_exception('no system\nmessage') }}"
    tokenizer = tokenizer_from_gguf({**TOKENIZER, "tokenizer.chat_template": template}, "test")
    with pytest.raises(ModelError, match="no system message"):
        tokenizer.prompt([])


def test_template_is_sandboxed():
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    tokenizer = tokenizer_from_gguf({**TOKENIZER, "tokenizer.chat_template": template}, "test")
    with pytest.raises(ModelError, match="template"):
        tokenizer.prompt([])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer 'llama'"),
        ({"tokenizer.ggml.pre": "exotic"}, "pre-tokenizer 'exotic'"),
    ],
)
def test_refused(change, words):
    with pytest.raises(ModelError, match=words):
        tokenizer_from_gguf({**TOKENIZER, **change}, "test")


def test_llama3_words():
    tokenizer = tokenizer_from_gguf({**TOKENIZER, "tokenizer.ggml.pre": "llama-bpe"}, "test")
    words = [word for word, _ in tokenizer.tokenizer.pre_tokenizer.pre_tokenize_str("I'll pay 12345 now")]
    assert words == ["I", "'ll", "Ġpay", "Ġ", "123", "45", "Ġnow"]


def test_folder_equals_gguf(tmp_path):
    folder = write_folder(tmp_path, CONFIG, random_checkpoint(CONFIG))
    one, other = open_model(folder).tokenizer(), tokenizer_from_gguf(TOKENIZER, "test")
    messages = [{"role": "user", "content": TEXT}]
    assert one.prompt(messages) == other.prompt(messages)
    assert one.stop_ids == other.stop_ids
    assert one.special_text == other.special_text == {"bos_token": "<|user|>", "eos_token": "<|end|>"}
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    assert open_model(folder).tokenizer().prompt(messages) == [1, *other.encode(TEXT)]
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json: .*broken"):
        open_model(folder).tokenizer()
