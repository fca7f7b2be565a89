"""Programs on several processes: started as a user does, with all that they leave behind looked at."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from spmd.errors import ShardingError
from spmd.run.launch import find

ROOT = Path(__file__).parents[1]


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


def mpirun(workers: int, *program: object, timeout: float = 280.0) -> Ended:
    """Run what ``python -m spmd run -n workers program`` becomes; fails if it does not end, or if a process of it is left."""
    need_mpi()
    launcher = find()
    return ended(launcher.command(workers, list(map(str, program))), launcher.environment(workers), timeout)


def ended(command: list[str], environment: Mapping[str, str], timeout: float) -> Ended:
    """Run a command; fails if it does not end, or if a process of it is left."""
    marker = f"{os.getpid()}-{time.monotonic_ns()}"
    environment = {**environment, "PYTHONPATH": str(ROOT), "SPMD_TEST": marker}
    began = time.monotonic()
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
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
    """Those that have the marker in their environment, once those that are ending have had so many seconds for it."""
    deadline = time.monotonic() + patience
    while found := [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _has(path, marker)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def _has(path: Path, marker: str) -> bool:
    try:
        return f"SPMD_TEST={marker}".encode() in (path / "environ").read_bytes()
    except OSError:
        return False
