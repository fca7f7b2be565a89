"""Converted weights on disk, file by file: a conversion that was stopped goes on with the files that are not whole."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .artifact import INDEX
from .errors import ModelError

FILE_BYTES = 32 << 20
"""Weights are written to files of about this size: so much is in memory at once."""
JOURNAL, IDENTITY = ".conversion", "conversion"

Arrays = Mapping[str, tuple[tuple[int, ...], str]]
"""{name: (shape, dtype)}."""


@dataclass(frozen=True)
class WeightFile:
    """One file: the weights of the model that are in it, and the arrays that stand for them."""

    name: str
    weights: tuple[str, ...]
    arrays: Arrays

    @property
    def bytes(self) -> int:
        """Of all its arrays."""
        return sum(_bytes(shape, dtype) for shape, dtype in self.arrays.values())

    def is_whole(self, folder: Path) -> bool:
        """Whether it is there, to its last byte, with the arrays that it should have."""
        try:
            with safe_open(folder / self.name, framework="numpy") as opened:
                names = set(opened.keys())
                return names == set(self.arrays) and all(tuple(opened.get_slice(n).get_shape()) == self.arrays[n][0] for n in names)
        except (OSError, SafetensorError):
            return False

    def write(self, folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Makes it, whole or not at all. Raises ModelError for other arrays than it should have."""
        found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
        if found != dict(self.arrays):
            odd = sorted(name for name in found.keys() | self.arrays.keys() if found.get(name) != self.arrays.get(name))
            raise ModelError(folder / self.name, f"'{odd[0]}' is not as the model's sizes say", "Use files of one model.")
        made = _partial(folder, self.name)
        save_file(dict(arrays), made)
        _finish(made, folder / self.name)


def files_of(weights: Mapping[str, Arrays]) -> list[WeightFile]:
    """Which weights, {weight: its arrays}, go into which file; arrays of one weight stay together."""
    found: list[list[str]] = [[]]
    size = 0
    for name, arrays in weights.items():
        if size >= FILE_BYTES:
            found.append([])
            size = 0
        found[-1].append(name)
        size += sum(_bytes(*array) for array in arrays.values())
    grouped = [(tuple(names), {name: array for weight in names for name, array in weights[weight].items()}) for names in found]
    return [WeightFile(f"weights-{i:05}.safetensors", names, arrays) for i, (names, arrays) in enumerate(grouped)]


@contextmanager
def conversion(folder: Path, identity: str) -> Iterator[None]:
    """Keeps what the folder has of this conversion, and removes what it has of another.

    Raises ModelError while another process converts into the folder.
    """
    with (folder / JOURNAL).open("a+") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ModelError(folder, "another process writes weights to it", "Wait for it, or choose another folder.") from None
        journal.seek(0)
        if identity not in (journal.read(), _index(folder).get(IDENTITY)):
            for stale in (folder / INDEX, *folder.glob("weights-*.safetensors"), *folder.glob(".weights-*.partial")):
                stale.unlink(missing_ok=True)
            journal.truncate(0)
            journal.write(identity)
            journal.flush()
            os.fsync(journal.fileno())
        yield
        (folder / JOURNAL).unlink()


def write_index(folder: Path, files: list[WeightFile], identity: str) -> None:
    """Says that all files are there, and which array is in which."""
    owner = {name: file.name for file in files for name in file.arrays}
    made = _partial(folder, INDEX)
    made.write_text(json.dumps({"weight_map": owner, IDENTITY: identity}, indent=1) + "\n")
    _finish(made, folder / INDEX)


def _index(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / INDEX).read_text())
    except (OSError, ValueError):
        return {}


def _partial(folder: Path, name: str) -> Path:
    return folder / f".{name}.partial"


def _finish(made: Path, path: Path) -> None:
    """Gives a file its name once all of it is on the disk."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(path)


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype="int64")) * np.dtype(dtype).itemsize
