"""Reading a box of a tensor out of a file that holds it in row-major order: only the bytes that are needed, in pieces of bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spmd.errors import ShardingError
from spmd.placement.layout import Array

Box = tuple[tuple[int, int], ...]
"""The place where it begins in each dimension, and where it ends."""
Read = Callable[[int, memoryview], None]
"""Reads bytes from a place in a file on, as many as there is room for."""
SIEVE = 4 << 20
"""The most bytes that are read at once to pick some of them."""
GAP = 64 << 10
"""What is skipped between two rows must be so many bytes: a device reads less than that in the time that a second read takes."""


@dataclass(frozen=True)
class File:
    """A regular file of a size that was seen when its header was read."""

    path: Path
    size: int

    @classmethod
    def of(cls, path: Path) -> File:
        """Raises `ShardingError` for what is no regular file: opening a pipe would wait for ever."""
        if not path.is_file():
            what = "it is no regular file" if path.exists() else "there is no such file"
            raise ShardingError(str(path), what, "Give the file of a checkpoint.")
        return cls(path, path.stat().st_size)

    def reading(self, where: str, read: Callable[[Read], None]) -> None:
        """Open it, and let `read` read: bytes, or an error at `where` if it is shorter than it was."""
        descriptor = os.open(self.path, os.O_RDONLY)

        def exactly(begin: int, into: memoryview) -> None:
            done = 0
            while done < len(into):
                count = os.preadv(descriptor, [into[done:]], begin + done)
                if not count:
                    what = f"the file ends at byte {begin + done}, and had {self.size} bytes when its header was read"
                    raise ShardingError(where, what, "Nobody may write to it meanwhile.")
                done += count

        try:
            read(exactly)
        finally:
            os.close(descriptor)


def gather(read: Read, begin: int, shape: Sequence[int], box: Box, out: Array) -> None:
    """Fill `out` with `box` of the tensor of this `shape` that begins at byte `begin`; `out` has the dtype of the tensor."""
    bits = out.view(np.dtype(f"u{out.itemsize}"))  # NumPy gives no bytes of bfloat16
    strides = strides_of(shape, out.itemsize)
    _gather(read, begin + sum(start * stride for (start, _), stride in zip(box, strides, strict=True)), strides, bits)


def strides_of(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Bytes from one index to the next in each dimension of a row-major tensor."""
    strides = [itemsize]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides)) if shape else ()


def _gather(read: Read, begin: int, strides: Sequence[int], out: Any) -> None:
    if not out.size:
        return
    spans = _spans(out.shape, strides, out.itemsize)
    gaps = [stride - inner for size, stride, inner in zip(out.shape, strides, spans[1:], strict=True) if size > 1]
    if out.flags.c_contiguous and spans[0] == out.nbytes:
        read(begin, memoryview(out.reshape(-1)).cast("B"))
    elif spans[0] <= SIEVE and max(gaps, default=0) < GAP:
        held = bytearray(spans[0])
        read(begin, memoryview(held))
        out[...] = np.ndarray(out.shape, out.dtype, held, strides=tuple(strides))
    else:
        dim = next(d for d, size in enumerate(out.shape) if size > 1)
        step = max(1, SIEVE // strides[dim]) if max(gaps) < GAP else 1
        for i in range(0, out.shape[dim], step):
            _gather(read, begin + i * strides[dim], strides, out[(slice(None),) * dim + (slice(i, i + step),)])


def _spans(sizes: Sequence[int], strides: Sequence[int], itemsize: int) -> list[int]:
    """Bytes from the first element to the end of the last, of the dimensions from each one on, and of none."""
    spans = [itemsize]
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        spans.append(spans[-1] + (size - 1) * stride)
    return spans[::-1]
