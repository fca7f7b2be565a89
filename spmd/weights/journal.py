"""What is done of a long job, on disk: one line for each finished weight, so that the job goes on where it was interrupted."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from spmd.errors import ShardingError

NAME = ".weights.journal"


@dataclass(frozen=True)
class Journal:
    """An open journal, which no other process has open. `done` has the checksums of each finished weight, one a worker."""

    file: BinaryIO
    done: dict[str, list[str]]

    def add(self, name: str, sums: list[str]) -> None:
        """A weight is written."""
        self.file.write(json.dumps([name, sums]).encode() + b"\n")
        self.file.flush()
        self.done[name] = sums


@contextmanager
def journal(folder: Path, job: str) -> Generator[Journal]:
    """The journal of this job in a folder; that of another job is begun anew. Raises `ShardingError` while another process has it."""
    with (folder / NAME).open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ShardingError(str(folder), "another process writes weights to it", "Wait for it, or choose another folder.") from None
        file.seek(0)
        lines = file.read().split(b"\n")[:-1]  # what is behind the last line end was not finished
        is_ours = lines[:1] == [job.encode()]
        file.truncate(sum(len(line) + 1 for line in lines) if is_ours else 0)
        found = Journal(file, _finished(lines[1:]) if is_ours else {})
        if not is_ours:
            file.write(job.encode() + b"\n")
            file.flush()
        yield found


def _finished(lines: list[bytes]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        try:
            name, sums = json.loads(line)
        except ValueError:
            break
        found[name] = cast("list[str]", sums)
    return found
