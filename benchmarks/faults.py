"""Random faults in runs of several processes, each at a random moment, and what they leave behind: it should be nothing.

    python -m benchmarks.faults [--count 1000] [--seed 0] [--seconds 3600]

Each run is of two to four processes that load a compiled program and add up vectors without end. At a random moment, of the start or of the
work, one of them is killed, is sent SIGTERM or SIGINT, raises, leaves, sleeps, runs out of memory, asks for another function, comes to
another collective or looks for a file that is not there; or the launcher is told to end. Then all have to end within the timeout and
5 seconds, the exit code has to say that something went wrong, and no process, no shared memory, no file in the folder for temporary
ones and no socket may be left. So that a run takes no more time than a fault needs, what MPI starts is forked from a process that has
imported TVM and loaded the programs (`resident.py`).
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py.run import set_abort_status
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd.run.launch import Launcher, find
from spmd.run.started import begin
from tests.resident import NAMED, client, serve, start

TIMEOUT, GRACE, PATIENCE = 2.0, 5.0, 2.0
"""Seconds that a worker waits for another, that all may take to end after it, and that the system may take to clear up."""
SIGNALS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "interrupted": signal.SIGINT}
OWN = ("raises", "leaves", "sleeps", "memory", "function", "operation", "file")
LAUNCHER = {"launcher interrupted": signal.SIGINT, "launcher terminated": signal.SIGTERM}
FAULTS = (*SIGNALS, *OWN, *LAUNCHER)
WORKERS, ELEMENTS = (2, 3, 4), 4096
SHARED = Path("/dev/shm")


def program(workers: int) -> spmd.ShardedModule:
    """`sums`, one after the other, and `apart`, in which worker 1 comes to something else than the others."""
    builder = relax.BlockBuilder()
    for name in ("sums", "apart"):
        with builder.function(name, [x := relax.Var("x", relax.TensorType((ELEMENTS,), "float32"))]):
            with builder.dataflow():
                y = builder.emit_output(relax.op.negative(x))
            builder.emit_func_output(y)
    whole = spmd.shard(builder.get(), workers, {"*.x": spmd.P(None)})

    @I.ir_module
    class Local:
        @R.function
        def sums(x: R.Tensor((ELEMENTS,), "float32")):
            y = R.spmd.all_reduce(x, axis="tp", kind="sum", workers=workers, value="x")
            z = R.spmd.all_reduce(y, axis="tp", kind="max", workers=workers, value="y")
            return z

        @R.function
        def apart(x: R.Tensor((ELEMENTS,), "float32")):
            one = R.equal(R.spmd.axis_index(axis="tp", workers=workers), R.const(1, "int64"))
            if one:
                z = R.spmd.all_reduce(x, axis="tp", kind="max", workers=workers, value="largest")
            else:
                z = R.spmd.all_reduce(x, axis="tp", kind="sum", workers=workers, value="total")
            return z

    return dataclasses.replace(whole, mod=Local)


def work(libraries: Mapping[int, spmd.Library], fault: str, victim: int, after: float, folder: Path) -> None:
    """One process: sums without end, in which the victim does what the fault says after so many seconds."""
    from mpi4py import MPI

    size, rank = MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank
    (folder / f"rank.{rank}").write_text(f"{os.getpid()}")
    x = np.ones(ELEMENTS, np.float32)
    with spmd.workers(libraries[size], backend="mpi", timeout=TIMEOUT) as running:
        running["sums"](x)
        (folder / f"works.{rank}").touch()
        begin = time.monotonic()
        for step in count():
            if fault == "operation" and step > 100 * after:
                running["apart"](x)
            if fault in OWN and rank == victim and time.monotonic() - begin > after:
                if fault == "leaves":
                    return
                own(fault, running, x)
            running["sums"](x)


def own(fault: str, running: Any, x: np.ndarray) -> None:
    """What a process does to itself."""
    if fault == "raises":
        raise ValueError("no such row")
    if fault == "sleeps":
        time.sleep(100 * TIMEOUT)
    if fault == "memory":
        np.ones(1 << 60, np.uint8)
    if fault == "function":
        running["apart"](x)
    if fault == "file":
        spmd.load("nowhere")


class Pool:
    """The resident process of a run of this benchmark, and what its launcher is told."""

    def __init__(self, folder: Path) -> None:
        self.name = f"faults-{os.getpid()}"
        self._environment = {**os.environ, NAMED: self.name}
        self._launcher: Launcher = find()
        self.resident = start("benchmarks.faults", self.name, "--programs", str(folder), environment=self._environment)

    def start(self, workers: int, arguments: list[str], temporary: str, log: Path) -> subprocess.Popen[bytes]:
        """A launcher of so many processes."""
        command = [*self._launcher.command(workers, [])[:-1], *client(self.name), *arguments]  # instead of started.py
        environment = {**self._launcher.environment(workers, self._environment), "TMPDIR": temporary}
        with open(log, "wb") as file:
            return subprocess.Popen(command, env=environment, stdout=file, stderr=file, process_group=0)

    def left(self, shared: set[str]) -> list[str]:
        """Processes that have the mark, but the resident one, files of ours in shared memory, and those of a run that are there yet."""
        alive = [path for path in Path("/proc").iterdir() if path.name.isdigit() and int(path.name) != self.resident.pid]
        found = [f"process {path.name}" for path in alive if _has(path, f"{NAMED}={self.name}")]
        return found + sorted({f"{path}" for path in SHARED.glob("spmd-*")} | {name for name in shared if os.path.exists(name)})


def _has(path: Path, variable: str) -> bool:
    try:
        return variable.encode() in (path / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _shared(pids: Sequence[int]) -> set[str]:
    """The files in shared memory that processes use."""
    found: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            names = [line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
            found |= {name for name in names if name.startswith(f"{SHARED}/")}
    return found


def inject(pool: Pool, draw: random.Random, number: int) -> list[str]:
    """One run with one fault: the fault, and what is wrong with how it ended."""
    fault, workers = draw.choice(FAULTS), draw.choice((2, 2, 3, 4))
    early = fault not in OWN and draw.random() < 0.3
    victim, after = draw.randrange(workers), draw.uniform(0.0, 0.8 if early else 0.3)
    with tempfile.TemporaryDirectory(prefix="faults-") as made, tempfile.TemporaryDirectory(prefix="faults-tmp-") as temporary:
        folder = Path(made)
        started = pool.start(workers, [fault, f"{victim}", f"{after}", made], temporary, folder / "log")
        while len(list(folder.glob("pid.*" if early else "works.*"))) < workers and started.poll() is None:
            time.sleep(0.02)
        time.sleep(after)
        pids = sorted(int(path.suffix[1:]) for path in folder.glob("pid.*"))
        shared = _shared(pids)
        if fault in SIGNALS:
            os.kill(pids[victim] if early else int((folder / f"rank.{victim}").read_text()), SIGNALS[fault])
        if fault in LAUNCHER:
            started.send_signal(LAUNCHER[fault])
        wrong = ended(pool, started, pids, shared, temporary)
        if wrong:
            when = "of its start" if early else "of its work"
            print(f"{number}: {fault}, worker {victim} of {workers} after {after:.3f} s {when}: {'; '.join(wrong)}", flush=True)
            print((folder / "log").read_text(errors="replace")[-4000:], flush=True)
    return [fault, *wrong]


def ended(pool: Pool, started: subprocess.Popen[bytes], pids: Sequence[int], shared: set[str], temporary: str) -> list[str]:
    """What is wrong when the time is over; what still runs then is killed."""
    wrong: list[str] = []
    try:
        if started.wait(TIMEOUT + GRACE) == 0:
            wrong.append("the exit code is 0")
    except subprocess.TimeoutExpired:
        wrong.append(f"it did not end in {TIMEOUT + GRACE:g} seconds")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)  # where it is goes to the log
        time.sleep(0.5)
    deadline = time.monotonic() + PATIENCE
    while (found := pool.left(shared)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for what in found:
        if what.startswith("process "):
            os.kill(int(what.split()[1]), signal.SIGKILL)
    started.wait()
    files = [f"{path.relative_to(temporary)}" for path in Path(temporary).rglob("*") if path.is_socket() or path.is_file()]
    return [*wrong, *(f"{what} is left" for what in (*found, *files))]


def become(name: str, folder: Path) -> None:
    """The resident process; then one that is forked from it, as the launcher started it."""
    libraries = {n: spmd.load(folder / f"{n}") for n in WORKERS}
    fault, victim, after, made = serve(name)
    faulthandler.register(signal.SIGUSR1)
    Path(made, f"pid.{os.getpid()}").touch()
    begin()
    try:
        work(libraries, fault, int(victim), float(after), Path(made))
    except BaseException:
        set_abort_status(1)  # as mpi4py.run.main does
        raise


def main() -> None:
    """Print what went wrong, and how many runs there were of each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--programs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        become(options.serve, options.programs)
        return
    draw, begin, done, bad = random.Random(options.seed), time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="faults-pool-") as folder:
        for workers in WORKERS:
            spmd.build(program(workers)).export(f"{folder}/{workers}")
        pool = Pool(Path(folder))
        for number in range(options.count):
            if time.monotonic() - begin > options.seconds:
                break
            fault, *wrong = inject(pool, draw, number)
            done[fault] += 1
            bad += bool(wrong)
        pool.resident.communicate()  # it ends with its standard input
    print(", ".join(f"{times} {fault}" for fault, times in sorted(done.items())))
    print(f"{sum(done.values())} faults, {bad} of them with something wrong")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
