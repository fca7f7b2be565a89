"""What the command lines share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

from spmd import ShardingError

from .errors import ModelError


def exit_code(run: Callable[[], int | None]) -> int:
    """What a command ends with: the number that `run` gives, 0 for none, or 2 after one line on standard error that says what is wrong."""
    try:
        return run() or 0
    except (ModelError, ShardingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


@contextmanager
def quiet(backend: str) -> Iterator[None]:
    """Nothing on standard output from processes other than the first."""
    if backend == "mpi":
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield
            return
    yield
