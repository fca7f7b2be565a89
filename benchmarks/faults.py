"""Random faults in runs of several processes, each at a random moment, and what they leave behind: it should be nothing.

    python -m benchmarks.faults [--count 1000] [--seed 0] [--seconds 3600]

Each run is of two to four processes that add up vectors without end. At a random moment one of them is killed, is sent SIGTERM or SIGINT,
raises, leaves, sleeps or runs out of memory; or the launcher is told to end. Then all have to end within the timeout and 5 seconds, the
exit code has to say that something went wrong, and no process, no file in /dev/shm or the folder for temporary ones and no socket may
be left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.collectives import program

TIMEOUT, GRACE = 4.0, 5.0  # seconds that a worker waits for another, and that all may take to end after it
SIGNALS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "interrupted": signal.SIGINT}
OWN = ("raises", "leaves", "sleeps", "memory")
LAUNCHER = {"launcher interrupted": signal.SIGINT, "launcher terminated": signal.SIGTERM}
FAULTS = (*SIGNALS, *OWN, *LAUNCHER)
MARK = "SPMD_FAULTS"


def work(fault: str, victim: int, after: float, folder: str) -> None:
    """One process: sums without end, in which the victim does what the fault says after so many seconds."""
    from mpi4py import MPI

    import spmd

    size, rank = MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank
    x = np.ones(1 << 14, np.float32)
    with spmd.workers(program(size, x.nbytes), backend="mpi", timeout=TIMEOUT) as running:
        running["short"](x)
        Path(folder, f"{rank}").write_text(f"{os.getpid()}")
        begin = time.monotonic()
        while True:
            if fault in OWN and rank == victim and time.monotonic() - begin > after:
                own(fault)
                return
            running["short"](x)


def own(fault: str) -> None:
    """What a process does to itself."""
    if fault == "raises":
        raise ValueError("no such row")
    if fault == "sleeps":
        time.sleep(100 * TIMEOUT)
    if fault == "memory":
        np.ones(1 << 60, np.uint8)


def left(mark: str) -> list[str]:
    """Processes that have the mark in their environment, and files and sockets of ours."""
    found = [f"process {path.name}" for path in Path("/proc").iterdir() if path.name.isdigit() and marked(path, mark)]
    return found + [f"{path}" for path in Path("/dev/shm").glob("spmd-*")]


def marked(path: Path, mark: str) -> bool:
    """Whether a process has it."""
    try:
        return f"{MARK}={mark}".encode() in (path / "environ").read_bytes()
    except OSError:
        return False


def inject(draw: random.Random, number: int) -> list[str]:
    """One run with one fault: what is wrong with how it ended."""
    fault, workers = draw.choice(FAULTS), draw.choice((2, 2, 3, 4))
    victim, after, mark = draw.randrange(workers), draw.uniform(0.0, 0.3), f"{os.getpid()}-{number}"
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, tempfile.TemporaryDirectory(prefix="faults-tmp-") as temporary:
        script = ["-m", "benchmarks.faults", "--work", fault, str(victim), str(after), folder]
        command = [sys.executable, "-m", "spmd", "run", "-n", str(workers), *script]
        environment = {**os.environ, MARK: mark, "TMPDIR": temporary}
        with open(Path(folder, "log"), "wb") as log:
            started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            while len(list(Path(folder).glob("[0-9]"))) < workers and started.poll() is None:
                time.sleep(0.02)
            time.sleep(after)
            if fault in SIGNALS:
                os.kill(int(Path(folder, f"{victim}").read_text()), SIGNALS[fault])
            if fault in LAUNCHER:
                started.send_signal(LAUNCHER[fault])
            wrong = ended(started, mark, temporary)
        if wrong:
            print(f"{number}: {fault}, worker {victim} of {workers} after {after:.3f} s: {'; '.join(wrong)}", flush=True)
            print(Path(folder, "log").read_text(errors="replace")[-1500:], flush=True)
    return [fault, *wrong]


def ended(started: subprocess.Popen[bytes], mark: str, temporary: str) -> list[str]:
    """What is wrong when the time is over; what still runs then is killed."""
    wrong: list[str] = []
    try:
        if started.wait(TIMEOUT + GRACE) == 0:
            wrong.append("the exit code is 0")
    except subprocess.TimeoutExpired:
        wrong.append(f"it did not end in {TIMEOUT + GRACE:g} seconds")
    deadline = time.monotonic() + 2.0
    while (found := left(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for what in found:
        if what.startswith("process "):
            os.kill(int(what.split()[1]), signal.SIGKILL)
    started.wait()
    files = [f"{path.relative_to(temporary)}" for path in Path(temporary).rglob("*") if path.is_socket() or path.is_file()]
    return [*wrong, *(f"{what} is left" for what in (*found, *files))]


def main() -> None:
    """Print what went wrong, and how many runs there were of each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        fault, victim, after, folder = options.work
        work(fault, int(victim), float(after), folder)
        return
    draw, begin = random.Random(options.seed), time.monotonic()
    done, bad = Counter[str](), 0
    for number in range(options.count):
        if time.monotonic() - begin > options.seconds:
            break
        fault, *wrong = inject(draw, number)
        done[fault] += 1
        bad += bool(wrong)
    print(", ".join(f"{count} {fault}" for fault, count in sorted(done.items())))
    print(f"{sum(done.values())} faults, {bad} of them with something wrong")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
