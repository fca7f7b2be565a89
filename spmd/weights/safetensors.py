"""Safetensors files: where each tensor lies, believed only after it was checked, and files of one's own, written piece by piece.

The library of that name reads and writes them too, but says of no tensor where it lies, and writes what is in memory as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from spmd.errors import ShardingError
from spmd.placement.dtypes import numpy_dtype
from spmd.placement.layout import Array

from .gather import Box, File, gather
from .hostile import DOWNLOAD, MOST_JSON, check_places, file_name, json_file, json_object, nbytes, shape

INDEX = "model.safetensors.index.json"
_DTYPES = {
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("U", "uint"), ("I", "int")) for bits in (8, 16, 32, 64)},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
}
"""The names of the format, and TVM's."""
_CODES = {name: code for code, name in _DTYPES.items()}
DTYPES = frozenset(_CODES)
"""What these files hold, by TVM's names."""
_LENGTH = 8


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in row-major order at a place in a file."""

    name: str
    file: File
    shape: tuple[int, ...]
    dtype: str
    begin: int

    @property
    def where(self) -> str:
        """Its name and its file."""
        return f"tensor {self.name!r} of {self.file.path}"

    def read(self, box: Box, out: Array) -> None:
        """Read only what is in the box."""
        self.file.reading(self.where, lambda read: gather(read, self.begin, self.shape, box, out))


@dataclass(frozen=True)
class Contents:
    """What a header says: the tensors by name, and texts about them."""

    file: File
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def contents(path: Path) -> Contents:
    """Read and check the header of a file. Raises `ShardingError` before any memory is taken for what it says."""
    file, where = File.of(path), str(path)
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH), "little")
        if file.size < _LENGTH or length > min(MOST_JSON, file.size - _LENGTH):
            what = f"its header is said to have {length} bytes, and the file has {file.size}"
            raise ShardingError(where, what, "It is no safetensors file, or truncated: download it again.")
        header = json_object(f"{where}, header", opened.read(length))
    metadata, start = header.pop("__metadata__", {}), _LENGTH + length
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in cast("dict[str, Any]", metadata).values()):
        raise ShardingError(where, "its __metadata__ is no object of texts", DOWNLOAD)
    tensors, places = {}, {}
    for name, entry in header.items():
        places[name], kind, sizes = _entry(f"{where}, tensor {name!r}", entry)
        tensors[name] = StoredTensor(name, file, sizes, kind, start + places[name][0])
    check_places(where, places, file.size - start, holes=False)
    return Contents(file, tensors, cast("dict[str, str]", metadata))


def _entry(where: str, entry: Any) -> tuple[tuple[int, int], str, tuple[int, ...]]:
    """The place, the dtype and the shape of a tensor in a header."""
    if not isinstance(entry, dict) or cast("dict[str, Any]", entry).keys() != {"dtype", "shape", "data_offsets"}:
        raise ShardingError(where, "its entry has other fields than dtype, shape and data_offsets", DOWNLOAD)
    code, ends, sizes = entry["dtype"], entry["data_offsets"], shape(where, entry["shape"])
    if not isinstance(code, str) or code not in _DTYPES:
        raise ShardingError(where, f"its dtype is {code!r}", f"Those that are read are {', '.join(_DTYPES)}.")
    if not isinstance(ends, list) or len(cast("list[Any]", ends)) != 2 or not all(type(end) is int for end in cast("list[Any]", ends)):
        raise ShardingError(where, "its data_offsets are no two numbers", DOWNLOAD)
    begin, end = cast("list[int]", ends)
    size = nbytes(sizes, numpy_dtype(_DTYPES[code]).itemsize)
    if begin < 0 or end - begin != size:
        raise ShardingError(where, f"{code}{list(sizes)} has {size} bytes, and its data_offsets are {begin} to {end}", DOWNLOAD)
    return (begin, end), _DTYPES[code], sizes


@dataclass(frozen=True)
class Checkpoint:
    """One or more safetensors files as one source."""

    path: Path
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def of(cls, path: Path, files: Sequence[Path]) -> Checkpoint:
        """A checkpoint of these files. Raises `ShardingError` where two have a tensor of the same name."""
        found: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in contents(file).tensors.items():
                if name in found:
                    what = f"tensor {name!r} is in {found[name].file.path.name} and in {file.name}"
                    raise ShardingError(str(path), what, "Keep the files of one checkpoint.")
                found[name] = tensor
        return cls(path, found)

    @classmethod
    def of_index(cls, index: Path) -> Checkpoint:
        """A checkpoint of the files that an index names, which stand beside it; each tensor must be where it says."""
        where, given = str(index), json_file(index).get("weight_map")
        if not isinstance(given, dict):
            raise ShardingError(where, "it has no weight_map, from names of tensors to files", DOWNLOAD)
        placed = {name: file_name(where, file) for name, file in cast("dict[str, Any]", given).items()}
        found = {file: contents(index.parent / file) for file in dict.fromkeys(placed.values())}
        for name, file in placed.items():
            if name not in found[file].tensors:
                raise ShardingError(where, f"it says that tensor {name!r} is in {file}, and it is not", DOWNLOAD)
        return cls(index.parent, {name: found[file].tensors[name] for name, file in placed.items()})

    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self.tensors.keys()

    def identity(self) -> str:
        """What tells its files from others: paths, sizes and times of change."""
        files = sorted({str(tensor.file.path.resolve()) for tensor in self.tensors.values()})
        return " ".join(f"{file}:{Path(file).stat().st_size}:{Path(file).stat().st_mtime_ns}" for file in files)

    def tensor(self, name: str, dtype: str) -> StoredTensor:
        """The tensor as it is stored."""
        return self.tensors[name]


@dataclass(frozen=True)
class Slot:
    """A tensor of a file that is to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return nbytes(self.shape, numpy_dtype(self.dtype).itemsize)


def header(slots: Sequence[Slot], metadata: Mapping[str, str]) -> bytes:
    """The header of a file of these tensors, one after another, padded so that data begin at a multiple of 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for slot in slots:
        if slot.name in entries:
            raise ShardingError(f"weight {slot.name!r}", "safetensors files use this name for themselves", "Give the weight another one.")
        if slot.dtype not in _CODES:
            raise ShardingError(f"weight {slot.name!r}", f"safetensors files hold no {slot.dtype}", "Shard a module with another dtype.")
        entries[slot.name] = {"dtype": _CODES[slot.dtype], "shape": list(slot.shape), "data_offsets": [at, at + slot.nbytes]}
        at += slot.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH, "little") + text
