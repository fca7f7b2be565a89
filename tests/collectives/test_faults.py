"""What goes wrong on processes: each is a named error, all end soon, and nothing is left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from spmd.run.launch import find
from tests.mpi import ROOT, mpirun, need_mpi, processes

pytestmark = pytest.mark.mpi
TOTAL = r"worker 0 is in all_reduce('sum') of 'total', 32 elements of float32, over axis 'tp'"
HARD = {
    "killed": [],
    "raises": ["worker 1 failed with ValueError: no such row", TOTAL],
    "memory": ["worker 1 failed with ", "Unable to allocate 1.00 EiB", TOTAL],
    "late": ["worker 0 waited 3 seconds:", TOTAL, "worker 1 runs"],
    "leaves": ["worker 1 left while worker 0 waits for it:", "worker 0 is at the start of 'main'"],
    "more": ["worker 1 returned while worker 0 waits for it:", TOTAL],
    "file": ["spmd.load('nowhere')", "worker 1 failed with ShardingError: spmd.load('nowhere')"],
}


def left() -> set[str]:
    """What stays in memory that processes share: files have names there for an instant, also those of other tests."""
    found: set[str] = {path.name for path in Path("/dev/shm").glob("spmd-*")} if Path("/dev/shm").is_dir() else set()
    time.sleep(1.0 if found else 0.0)
    return {name for name in found if (Path("/dev/shm") / name).exists()}


@pytest.mark.parametrize("case", HARD)
def test_all_end_with_words(case: str) -> None:
    ended = mpirun(2, "-m", "tests.collectives.mpi_fault", case, timeout=120.0, forked=True)
    assert ended.code != 0 and ended.out.count("began") == 2
    for text in HARD[case]:
        assert text in ended.err
    assert "not reached" not in ended.out
    assert not left()


def test_what_all_are_told_ends_nobody() -> None:
    ended = mpirun(2, "-m", "tests.collectives.mpi_fault", "soft", timeout=120.0, forked=True)
    assert ended.code == 0, ended.err
    assert ended.out.count("went on") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_ends_all(number: signal.Signals) -> None:
    need_mpi()
    launcher, marker = find(), f"signal-{os.getpid()}-{number}"
    command = launcher.command(2, ["-m", "tests.collectives.mpi_fault", "late"])
    environment = {**launcher.environment(2), "PYTHONPATH": str(ROOT), "SPMD_TEST": marker}
    started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while len(processes(marker, patience=0.0)) < 3 and started.poll() is None:
        time.sleep(0.1)
    time.sleep(1.0)
    started.send_signal(number)
    try:
        started.communicate(timeout=60.0)
    finally:
        alive = processes(marker, patience=5.0)
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
    assert not alive
    assert started.returncode != 0
    assert not left()
