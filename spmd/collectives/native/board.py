"""What the workers of one host see of one another while no Python runs: a row of shared memory for each process.

Compiled carriers write into it where they are, and keep the trace of the run in memory of their own. The file behind the shared
memory has no name any more when work begins: whatever ends a process, nothing of it is left.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

import numpy as np

from spmd.placement.layout import Array

BEGUN, DONE, SITE, COUNT, STATUS, ENDING, MET, AXES = 0, 1, 2, 3, 4, 5, 6, 8
"""Fields of a row: meetings begun and done; the site of the last one (negative: none of the program's) and the elements brought to it;
what the process does; whether somebody ends all; meetings begun that are none of the program's; from `AXES` on, collectives begun over
each axis in this run."""
MEETING, ON_DEVICE = -1, -2
"""Sites that are no collective: a meeting of all, and the wait for a device whose collectives others must come to, too."""
RUNS, ENDED, FAILED, LEFT = 0, 1, 2, 3
MOST_AXES = 24
_NUMBERS, _TEXT = 32, 768
ROW = 8 * _NUMBERS + _TEXT
KEPT, RECORD = 1 << 16, 11
"""Tensors that a trace keeps, and numbers for each: its site, its place there, its number of dimensions, at most 8 of them."""


class Row:
    """One process, as it says of itself."""

    def __init__(self, memory: mmap.mmap, place: int) -> None:
        self._memory = memory
        self.numbers: Array = np.frombuffer(memory, np.int64, _NUMBERS, place * ROW)
        self._text: Array = np.frombuffer(memory, np.uint8, _TEXT, place * ROW + 8 * _NUMBERS)

    @property
    def text(self) -> str:
        """What it is at, or how it ended."""
        return bytes(self._text).split(b"\0")[0].decode(errors="replace")

    @text.setter
    def text(self, said: str) -> None:
        encoded = said.encode()[: _TEXT - 1]
        self._text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        self._text[len(encoded)] = 0

    @property
    def waits(self) -> bool:
        """Whether it is in a meeting."""
        return bool(self.numbers[BEGUN] != self.numbers[DONE])

    @property
    def address(self) -> int:
        """Where carriers find its numbers."""
        return self.numbers.ctypes.data


class Trace:
    """The collectives of a run as carriers write them: a count, then a ring of records."""

    def __init__(self) -> None:
        self.numbers: Array = np.zeros(RECORD * (KEPT + 1), np.int64)

    @property
    def address(self) -> int:
        """Where carriers find it."""
        return self.numbers.ctypes.data

    def clear(self) -> None:
        """Begin a run."""
        self.numbers[0] = 0

    def rows(self) -> Array:
        """The records of the run, (n, RECORD): the last `KEPT` of them, oldest first."""
        count = int(self.numbers[0])
        ring = self.numbers[RECORD:].reshape(KEPT, RECORD)
        return ring[:count] if count <= KEPT else np.roll(ring, -(count % KEPT), axis=0)


def create(size: int) -> tuple[str, mmap.mmap]:
    """Shared memory of so many bytes, in a file for the others to open; to be removed when they have. Raises `OSError` without room."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
    handle, path = tempfile.mkstemp(prefix="spmd-", dir=folder)
    with os.fdopen(handle, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # memory that is only promised ends the process that writes to it
            return path, mmap.mmap(file.fileno(), size)
        except OSError:
            os.unlink(path)
            raise


def opened(path: str, size: int) -> mmap.mmap:
    """The memory that another process of this host created."""
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), size)


def described(row: Row, told: Any) -> str:
    """What a process does, in words; `told` says a site."""
    status, site = int(row.numbers[STATUS]), int(row.numbers[SITE])
    if status in (FAILED, LEFT):
        return row.text
    if status == ENDED:
        return "returned"
    if not row.waits:
        return "runs"
    return f"is at {row.text}" if site < 0 else f"is in {told(site, int(row.numbers[COUNT]))}"
