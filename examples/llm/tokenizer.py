"""Text to tokens and back, and the chat template, from a GGUF file's metadata or a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

from .errors import ModelError, require

CONTROL, USER_DEFINED = 3, 4
"""GGUF token types that are never split: control tokens are left out of the text, user-defined ones are kept."""

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZER, CHAT = "tokenizer.json", "chat.json"
FOLDER = "Use the model's Hugging Face folder."


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer, the tokens that end an answer, and the template that makes a prompt of messages, if any."""

    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    template: str | None = None
    special_text: Mapping[str, str] | None = None

    def encode(self, text: str) -> list[int]:
        """Token numbers of `text`, in which special tokens are recognized and none is added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token numbers, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Pieces of text as tokens come; a piece is held back until its bytes are whole characters."""
        decoder = DecodeStream(skip_special_tokens=True)
        for token in ids:
            piece = decoder.step(self.tokenizer, token)
            if piece:
                yield piece

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Tokens that ask the model for the next answer; messages are {"role", "content"}.

        A model without a chat template gets the last message as plain text, after its usual leading tokens.
        """
        if self.template is None:
            return self.tokenizer.encode(messages[-1]["content"]).ids
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            template = environment.from_string(self.template)
            text = template.render(messages=messages, add_generation_prompt=True, **(self.special_text or {}))
        except TemplateError as error:
            raise ModelError("the model's chat template", str(error), "Use a model with a working one.") from error
        return self.encode(text)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and chat.json, for `load_tokenizer`."""
        self.tokenizer.save(str(folder / TOKENIZER))
        chat = {"stop_ids": sorted(self.stop_ids), "template": self.template, "special_text": dict(self.special_text or {})}
        (folder / CHAT).write_text(json.dumps(chat, indent=1) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """What `ChatTokenizer.save` wrote; raises ModelError where it is not there."""
    for name in (TOKENIZER, CHAT):
        if not (folder / name).is_file():
            raise ModelError(folder, f"there is no {name} in it", "Run: python -m examples.llm.convert_weights")
    chat = json.loads((folder / CHAT).read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    return ChatTokenizer(tokenizer, frozenset(chat["stop_ids"]), chat["template"], chat["special_text"])


def _raise(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise TemplateError(message)


def _pre_tokenizer(kind: str, source: str) -> pre_tokenizers.PreTokenizer:
    """How llama.cpp's kind `kind` cuts text into words; raises ModelError for a kind that is not known here."""
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if kind in ("gpt-2", "gpt2", "default"):
        return whole
    if kind == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    if kind == "llama-bpe":
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"), bytes_only])
    raise ModelError(source, f"pre-tokenizer '{kind}' is not supported from GGUF", FOLDER)


def tokenizer_from_gguf(metadata: Mapping[str, Any], source: str) -> ChatTokenizer:
    """A byte-level BPE tokenizer from GGUF metadata; raises ModelError for the other kinds."""
    kind = require(metadata, "tokenizer.ggml.model", source)
    if kind != "gpt2":
        raise ModelError(source, f"tokenizer '{kind}' is not supported from GGUF", FOLDER)
    tokens: list[str] = require(metadata, "tokenizer.ggml.tokens", source)
    merges = [tuple(merge.split(" ", 1)) for merge in require(metadata, "tokenizer.ggml.merges", source)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(metadata.get("tokenizer.ggml.pre", "default"), source)
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text, t in zip(tokens, types, strict=True) if t == CONTROL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text, t in zip(tokens, types, strict=True) if t == USER_DEFINED])
    ends = {metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")} - {None}
    special = {f"{name}_token": metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    text = {name: tokens[index] for name, index in special.items() if index is not None}
    return ChatTokenizer(tokenizer, frozenset(ends), metadata.get("tokenizer.chat_template"), text)


def tokenizer_from_hf(path: Path, settings: Mapping[str, Any], stop: int | list[int] | None) -> ChatTokenizer:
    """From tokenizer.json, the contents of tokenizer_config.json, and the configuration's `eos_token_id`."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelError(path, f"the file is broken ({error})", "Download it again.") from error
    special = {name: _text(settings.get(name)) for name in ("bos_token", "eos_token")}
    stops = set(stop) if isinstance(stop, list) else {stop}
    stops.add(tokenizer.token_to_id(special["eos_token"] or ""))
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return ChatTokenizer(tokenizer, frozenset(stops - {None}), template, {name: text for name, text in special.items() if text})


def _text(token: str | Mapping[str, Any] | None) -> str | None:
    """A special token's text, which tokenizer_config.json gives as text or as a dictionary."""
    return token["content"] if isinstance(token, Mapping) else token
