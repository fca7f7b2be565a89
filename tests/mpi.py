"""Programs on several processes: started as a user does, with all that they leave behind looked at."""

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from spmd.errors import ShardingError
from spmd.run.launch import STARTED, find
from tests.resident import NAMED, client, start

ROOT = Path(__file__).parents[1]
_NUMBERS = count()


def need_mpi() -> None:
    """Skip the test where there is no MPI."""
    try:
        find()
    except ShardingError as error:
        pytest.skip(f"{error}")


@dataclass
class Ended:
    """How a program ended: its exit code, what it wrote, and how many seconds it took."""

    code: int
    out: str
    err: str
    seconds: float


def mpirun(workers: int, *program: object, timeout: float = 280.0, forked: bool = False) -> Ended:
    """Run what ``python -m spmd run -n workers program`` becomes; fails if it does not end, or if a process of it is left.

    `forked`: by processes that are forked from one that has imported all already, which is much cheaper (`resident.py`).
    """
    need_mpi()
    launcher = find()
    command = launcher.command(workers, list(map(str, program)))
    if forked:
        place = command.index(STARTED)
        command[place : place + 1] = client(resident())
    return ended(command, launcher.environment(workers), timeout)


@cache
def resident() -> str:
    """The name of the process that forks, which ends with this one."""
    name = f"tests-{os.getpid()}"
    atexit.register(start("tests.resident", name, environment={**os.environ, "PYTHONPATH": str(ROOT)}).communicate)
    return name


def ended(command: list[str], environment: Mapping[str, str], timeout: float) -> Ended:
    """Run a command; fails if it does not end, or if a process of it is left."""
    marker = f"{os.getpid()}-{next(_NUMBERS)}"
    environment = {**environment, "PYTHONPATH": str(ROOT), NAMED: marker}
    began = time.monotonic()
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=os.setpgrp
    )
    try:
        out, err = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        out, err = started.communicate()
        pytest.fail(f"it did not end in {timeout:g} seconds\n{out}\n{err}")
    finally:
        left = processes(marker)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    seconds = time.monotonic() - began
    assert not left, f"processes are left: {left}\n{err}"
    return Ended(started.returncode, out, err, seconds)


def processes(marker: str, patience: float = 5.0) -> list[int]:
    """Those that have the marker in their environment, or as their name, once those that are ending have had so many seconds for it."""
    deadline = time.monotonic() + patience
    while found := [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _has(path, marker)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def _has(path: Path, marker: str) -> bool:
    try:
        return f"{NAMED}={marker}".encode() in (path / "environ").read_bytes() or (path / "comm").read_text() == f"{marker}\n"
    except OSError:
        return False
