"""GGUF files: where each tensor lies, believed only after it was checked.

The package `gguf` has the sizes of quantized blocks and makes floats of them. Its own reader trusts counts and lengths of the header, and
walks through 2^60 elements of an array that a file of 100 bytes says it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spmd.errors import ShardingError
from spmd.placement.dtypes import numpy_dtype
from spmd.placement.layout import Array

from .gather import Box, File
from .hostile import DOWNLOAD, check_places, nbytes
from .safetensors import StoredTensor

MAGIC = b"GGUF"
_PLAIN = {0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16"}
"""Types of tensors that are numbers one by one."""
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the types of metadata, by number; 8 is a text and 9 an array."""
_TEXT, _ARRAY, _UINT32 = 8, 9, 4
_MOST_DIMS = 4
_LEAST_INFO, _LEAST_ENTRY = 24, 13
"""The bytes that the description of a tensor, and an entry of the metadata, have at least."""
_LONGEST_NAME, _MOST_TENSORS = 1 << 16, 1 << 20
_ALIGNMENT = b"general.alignment"


class _Cursor:
    """Reads one number after another; what would lie beyond the end of the file is an error before it is read."""

    def __init__(self, opened: BinaryIO, file: File) -> None:
        self.opened, self.file, self.at = opened, file, 0

    def need(self, count: int, what: str) -> None:
        if count > self.file.size - self.at:
            text = f"{what} would take {count} bytes from byte {self.at} on, and the file has {self.file.size}"
            raise ShardingError(str(self.file.path), f"{text}: it is truncated, or its header lies", DOWNLOAD)

    def bytes(self, count: int, what: str) -> bytes:
        self.need(count, what)
        self.at += count
        return self.opened.read(count)

    def number(self, width: int, what: str) -> int:
        return int.from_bytes(self.bytes(width, what), "little")

    def name(self, what: str) -> bytes:
        length = self.number(8, what)
        if length > _LONGEST_NAME:
            raise ShardingError(str(self.file.path), f"{what} is said to have {length} bytes", DOWNLOAD)
        return self.bytes(length, what)

    def skip(self, kind: int, what: str, count: int = 1) -> None:
        """Go on behind so many values of a type."""
        if kind in _WIDTHS:
            self.need(count * _WIDTHS[kind], what)
            self.at += count * _WIDTHS[kind]
            self.opened.seek(self.at)
        elif kind == _TEXT:
            self.need(count * 8, what)
            for _ in range(count):
                self.skip(0, what, self.number(8, what))
        else:
            raise ShardingError(str(self.file.path), f"{what} is of the type {kind}, which GGUF does not have there", DOWNLOAD)


@dataclass(frozen=True)
class _Info:
    name: str
    sizes: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Dequantized:
    """Quantized blocks along the last dimension as float32: whole blocks are read and made floats, piece by piece."""

    raw: StoredTensor
    shape: tuple[int, ...]
    kind: int
    block: int
    width: int
    """Bytes of a block."""
    dtype: str = "float32"

    @property
    def where(self) -> str:
        """Its name and its file."""
        return self.raw.where

    def read(self, box: Box, out: Array) -> None:
        """Read the blocks that have something of the box."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        begin, end = box[-1]
        first, last = begin // self.block, -(-end // self.block)
        held = np.empty((*out.shape[:-1], (last - first) * self.width), np.uint8)
        self.raw.read((*box[:-1], (first * self.width, last * self.width)), held)
        try:
            made: Any = dequantize(held, GGMLQuantizationType(self.kind))
        except NotImplementedError as error:
            raise ShardingError(
                self.where, f"it is quantized in a way that gguf does not decode ({error})", "Take it raw, as uint8."
            ) from None
        out[...] = made[..., begin - first * self.block : end - first * self.block]


@dataclass(frozen=True)
class GGUF:
    """The tensors of a file. Quantized ones come as float32; raw, as uint8 of whole blocks, where they are asked for as uint8."""

    path: Path
    file: File
    stored: Mapping[str, StoredTensor]
    quantized: Mapping[str, Dequantized]

    @classmethod
    def of(cls, path: Path) -> GGUF:
        """Read and check the header. Raises `ShardingError` before any memory is taken for what it says."""
        file, where = File.of(path), str(path)
        with path.open("rb") as opened:
            infos, start = _header(_Cursor(opened, file))
        stored: dict[str, StoredTensor] = {}
        quantized: dict[str, Dequantized] = {}
        places: dict[str, tuple[int, int]] = {}
        for info in infos:
            block, width, dtype = _block(f"{where}, tensor {info.name!r}", info.kind)
            if info.name in stored:
                raise ShardingError(where, f"tensor {info.name!r} comes twice", DOWNLOAD)
            if block > 1 and (not info.sizes or info.sizes[-1] % block):
                what = f"its shape is {list(info.sizes)}, and blocks have {block} elements"
                raise ShardingError(f"{where}, tensor {info.name!r}", what, DOWNLOAD)
            held = info.sizes if block == 1 else (*info.sizes[:-1], info.sizes[-1] // block * width)
            places[info.name] = info.offset, info.offset + nbytes(held, numpy_dtype(dtype).itemsize)
            stored[info.name] = StoredTensor(info.name, file, held, dtype, start + info.offset)
            if block > 1:
                quantized[info.name] = Dequantized(stored[info.name], info.sizes, info.kind, block, width)
        check_places(where, places, file.size - start, holes=True)
        return cls(path, file, stored, quantized)

    def names(self) -> Collection[str]:
        """The names of all tensors."""
        return self.stored.keys()

    def identity(self) -> str:
        """What tells the file from others: its path, size and time of change."""
        return f"{self.path.resolve()}:{self.file.size}:{self.path.stat().st_mtime_ns}"

    def tensor(self, name: str, dtype: str) -> StoredTensor | Dequantized:
        """The tensor as floats, unless it is wanted raw."""
        return self.stored[name] if dtype == "uint8" or name not in self.quantized else self.quantized[name]


def _header(cursor: _Cursor) -> tuple[list[_Info], int]:
    """The tensors that a header describes, and where data begin."""
    where = str(cursor.file.path)
    magic, version = cursor.bytes(4, "the magic number"), cursor.number(4, "the version")
    if magic != MAGIC or version not in (2, 3):
        raise ShardingError(where, f"it begins with {magic!r} and version {version}, not as GGUF 2 or 3", "Give a .gguf file.")
    tensors, entries = cursor.number(8, "the number of tensors"), cursor.number(8, "the number of entries")
    if tensors > _MOST_TENSORS:
        raise ShardingError(where, f"it is said to have {tensors} tensors, and {_MOST_TENSORS} at most are read", DOWNLOAD)
    cursor.need(tensors * _LEAST_INFO + entries * _LEAST_ENTRY, f"{tensors} tensors and {entries} entries")
    alignment = 32
    for _ in range(entries):
        key = cursor.name("the name of an entry")
        kind, what = cursor.number(4, "the type of an entry"), f"entry {key.decode(errors='replace')!r}"
        if key == _ALIGNMENT and kind == _UINT32:
            alignment = cursor.number(4, what)
        elif kind == _ARRAY:
            cursor.skip(cursor.number(4, what), what, cursor.number(8, what))
        else:
            cursor.skip(kind, what)
    if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise ShardingError(where, f"its alignment is {alignment}, and no power of two up to 2^20", DOWNLOAD)
    infos = [_info(cursor) for _ in range(tensors)]
    return infos, -(-cursor.at // alignment) * alignment


def _info(cursor: _Cursor) -> _Info:
    name = cursor.name("the name of a tensor").decode(errors="replace")
    what = f"tensor {name!r}"
    count = cursor.number(4, what)
    if count > _MOST_DIMS:
        raise ShardingError(str(cursor.file.path), f"{what} has {count} dimensions, and GGUF allows {_MOST_DIMS}", DOWNLOAD)
    sizes = tuple(cursor.number(8, what) for _ in range(count))[::-1]  # the file has the last dimension first
    return _Info(name, sizes, cursor.number(4, what), cursor.number(8, what))


def _block(where: str, kind: int) -> tuple[int, int, str]:
    """Elements and bytes of a block of this type, and the dtype in which it is stored."""
    if kind in _PLAIN:
        return 1, numpy_dtype(_PLAIN[kind]).itemsize, _PLAIN[kind]
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError:
        raise ShardingError(where, "it is quantized, and the package gguf is not installed", "pip install 'spmd[gguf]'.") from None
    try:
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise ShardingError(where, f"its type is {kind}, which gguf does not know", "Update gguf, or download it again.") from None
    return int(block), int(width), "uint8"
