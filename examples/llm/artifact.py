"""A model on disk as the commands make it: the compiled library, its weights, its tokenizer, and a page that says what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .errors import ModelError

HEADER, INDEX = "model.json", "weights.json"


@dataclass(frozen=True)
class Header:
    """What a library was built for."""

    model: str
    quantization: str
    num_shards: int
    target: str
    max_seq_len: int
    window: int
    """How far layers look back that do not see all; 0: all do."""

    def write(self, folder: Path) -> None:
        """As model.json."""
        (folder / HEADER).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> Header:
        """Raises ModelError where there is none."""
        if not (folder / HEADER).is_file():
            raise ModelError(folder, f"there is no {HEADER} in it", "Run: python -m examples.llm.build")
        return Header(**json.loads((folder / HEADER).read_text()))


class StoredWeights(Mapping[str, np.ndarray]):
    """{name: array} of what `convert_weights` wrote, read when asked for; raises ModelError where it is not there or not whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / INDEX).is_file():
            raise ModelError(folder, f"there is no {INDEX} in it", "Run: python -m examples.llm.convert_weights")
        self.owner: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]

    def __getitem__(self, name: str) -> np.ndarray:
        file = self.folder / self.owner[name]
        if not file.is_file():
            raise ModelError(self.folder, f"{file.name} is missing", "Run: python -m examples.llm.convert_weights")
        try:
            with safe_open(file, framework="numpy") as opened:
                return opened.get_tensor(name)
        except SafetensorError as error:
            raise ModelError(file, f"it is broken ({error})", "Run: python -m examples.llm.convert_weights") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.owner)

    def __len__(self) -> int:
        return len(self.owner)
