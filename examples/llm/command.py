"""What the command lines share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


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
