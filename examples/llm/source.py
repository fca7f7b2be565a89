"""One model on disk, a GGUF file or a Hugging Face folder: its configuration, weights and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .config import LlamaConfig
from .errors import ModelError
from .models import read_config
from .quantization import FORMATS, Blocks, is_packed, part_name
from .tokenizer import ChatTokenizer, tokenizer_from_gguf, tokenizer_from_hf
from .weights import gguf_name, hf_sources, parameter_shapes, tensors, unpermute

COMPLETE = "Give a complete Hugging Face folder, or a .gguf file."


class Source(Protocol):
    """What a model on disk answers; each raises ModelError where the files do not hold it."""

    config: LlamaConfig

    def files(self) -> list[Path]: ...

    def tensors(self, dtype: str = "float32", only: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]: ...

    def weights(self, dtype: str = "float32") -> dict[str, np.ndarray]: ...

    def formats(self) -> Mapping[str, str]: ...

    def packed(self, dtype: str = "float32", only: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]: ...

    def tokenizer(self) -> ChatTokenizer: ...


def open_model(path: str | Path) -> Source:
    """The model at `path`: a `.gguf` file, or a folder with config.json. Raises ModelError with the way out."""
    path = Path(path).expanduser()
    if not path.exists():
        way_out = "Give a .gguf file or a Hugging Face folder, or run: python -m examples.llm.fetch"
        raise ModelError(path, "there is no such file or folder", way_out)
    if path.is_dir():
        return FolderSource(path)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(path, "this is not a GGUF file", "Give a .gguf file or a Hugging Face folder.")
    return GGUFSource(path)


class GGUFSource:
    """A GGUF file. Quantized tensors are made float when they are read, or kept as they are (`packed`)."""

    def __init__(self, path: Path):
        import gguf  # takes a second to import: only those who open a GGUF file pay

        self.path = path
        try:
            reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError) as error:
            raise ModelError(path, f"the file is broken ({error})", "Download it again.") from error
        self.metadata: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        self.stored = {tensor.name: tensor for tensor in reader.tensors}
        self.config = LlamaConfig.from_gguf(self.metadata, self.stored, str(path))

    def files(self) -> list[Path]:
        """The one file."""
        return [self.path]

    def tensors(self, dtype: str = "float32", only: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of all, or of `only` some, as model.build_module orders them, fused, q and k rows in Hugging Face's order."""
        return tensors(self.config.with_dtype(dtype), self._read, str(self.path), only)

    def weights(self, dtype: str = "float32") -> dict[str, np.ndarray]:
        """All of `tensors`."""
        return dict(self.tensors(dtype))

    def formats(self) -> dict[str, str]:
        """{weight: format} of those that can be kept: all parts of a weight are of one type, which has a format here."""
        found: dict[str, str] = {}
        shapes = parameter_shapes(self.config)
        for name, parts in hf_sources(self.config).items():
            kinds = {self._stored(part).tensor_type.name.lower() for part in parts}
            if len(kinds) == 1 and is_packed(name, shapes[name]) and isinstance(FORMATS.get(kind := kinds.pop()), Blocks):
                found[name] = kind
        return found

    def packed(self, dtype: str = "float32", only: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of all, or of `only` some weights of a module quantized by `formats`, with no float made of what is kept."""
        formats, shapes, config = self.formats(), parameter_shapes(self.config), self.config.with_dtype(dtype)
        wanted = shapes if only is None else only
        for name, parts in hf_sources(config).items():
            form = FORMATS.get(formats.get(name, ""))
            if not isinstance(form, Blocks) or name not in wanted:
                continue
            raw = np.concatenate([self._in_order(part, self._stored(part).data) for part in parts])
            for part, array in form.regrouped(raw).items():
                shape, _ = form.parts(shapes[name], dtype)[part]
                if array.shape != shape:
                    what = f"{part} of '{name}' has shape {array.shape}, and its configuration says {shape}"
                    raise ModelError(self.path, what, "Download the file again.")
                yield part_name(name, part), array
        yield from tensors(config, self._read, str(self.path), [name for name in wanted if name not in formats])

    def _stored(self, name: str) -> Any:
        tensor = self.stored.get(gguf_name(name))
        if tensor is None:
            raise ModelError(self.path, f"tensor '{gguf_name(name)}' is missing", "Download the file again.")
        return tensor

    def _read(self, name: str) -> np.ndarray:
        from gguf.quants import dequantize

        tensor = self._stored(name)
        try:
            array = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            what = f"tensor '{tensor.name}' is {tensor.tensor_type.name}, which cannot be read"
            raise ModelError(self.path, what, "Use a file of another quantization.") from error
        return self._in_order(name, array)

    def _in_order(self, name: str, array: np.ndarray) -> np.ndarray:
        """The rows of a tensor as the model has them."""
        if name.endswith("q_proj.weight"):
            return unpermute(array, self.config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            return unpermute(array, self.config.num_key_value_heads)
        return array

    def tokenizer(self) -> ChatTokenizer:
        """The tokenizer and chat template that the metadata describe."""
        return tokenizer_from_gguf(self.metadata, str(self.path))


@dataclass
class FolderSource:
    """A Hugging Face folder: config.json, model*.safetensors (with or without an index), tokenizer.json."""

    path: Path

    def __post_init__(self) -> None:
        self.config = read_config(self._json("config.json"), str(self.path / "config.json"))

    def _json(self, name: str) -> dict[str, Any]:
        """The contents of one JSON file; raises ModelError if it is missing or broken."""
        file = self.path / name
        if not file.exists():
            raise ModelError(self.path, f"there is no {name} in it", COMPLETE)
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(file, f"this is not valid JSON ({error})", "Download it again.") from error

    def files(self) -> list[Path]:
        """The safetensors files, from the index where there is one; raises ModelError if one is missing."""
        if (self.path / "model.safetensors.index.json").exists():
            names = sorted(set(self._json("model.safetensors.index.json")["weight_map"].values()))
        else:
            names = sorted(file.name for file in self.path.glob("model*.safetensors"))
        if not names:
            raise ModelError(self.path, "there is no model*.safetensors in it", COMPLETE)
        for name in names:
            if not (self.path / name).exists():
                raise ModelError(self.path, f"there is no {name} in it, which its index names", COMPLETE)
        return [self.path / name for name in names]

    def weights(self, dtype: str = "float32") -> dict[str, np.ndarray]:
        """All of `tensors`."""
        return dict(self.tensors(dtype))

    def formats(self) -> dict[str, str]:
        """Raises ModelError: its weights are no blocks of GGUF."""
        raise ModelError(self.path, "it is no .gguf file, whose weights could be kept as they are", "Give another --quantization.")

    def packed(self, dtype: str = "float32", only: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """As `formats`."""
        return iter(self.formats().items())

    def tensors(self, dtype: str = "float32", only: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of all, or of `only` some, as model.build_module orders them, q/k/v and gate/up fused."""
        import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, which safetensors asks for by name)
        from safetensors import SafetensorError, safe_open

        try:
            handles = [safe_open(file, framework="numpy") for file in self.files()]
        except SafetensorError as error:
            raise ModelError(self.path, f"its weights are broken ({error})", "Download them again.") from error
        owner = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118

        def read(name: str) -> np.ndarray:
            bare = name.removeprefix("transformer.")  # which files of GPT-2 have or have not
            if name not in owner and bare not in owner:
                raise ModelError(self.path, f"there is no tensor '{name}' in it", COMPLETE)
            found = name if name in owner else bare
            return owner[found].get_tensor(found)

        return tensors(self.config.with_dtype(dtype), read, str(self.path), only)

    def tokenizer(self) -> ChatTokenizer:
        """tokenizer.json with the chat template of tokenizer_config.json or chat_template.jinja."""
        if not (self.path / "tokenizer.json").exists():
            raise ModelError(self.path, "there is no tokenizer.json in it", COMPLETE)
        settings = self._json("tokenizer_config.json") if (self.path / "tokenizer_config.json").exists() else {}
        template = self.path / "chat_template.jinja"
        if template.exists():
            settings["chat_template"] = template.read_text(encoding="utf-8")
        generation = "generation_config.json" if (self.path / "generation_config.json").exists() else "config.json"
        return tokenizer_from_hf(self.path / "tokenizer.json", settings, self._json(generation).get("eos_token_id"))
