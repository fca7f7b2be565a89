"""Starting a script once for each worker: which launcher this MPI has, and what it must be told on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spmd.collectives.cores import processors
from spmd.errors import ShardingError

_FAMILIES = {"Open MPI": "Open MPI", "Intel": "Intel(R) MPI Library", "MPICH": "MPICH"}
"""What an MPI is, and how its library begins to say so."""


STARTED = str(Path(__file__).with_name("started.py"))
"""What each process runs, with the program as its arguments."""


@dataclass(frozen=True)
class Launcher:
    """A program that starts processes of one MPI."""

    path: str
    family: str

    def command(self, processes: int, program: Sequence[str], hosts: str | None = None) -> list[str]:
        """What starts `program`, the arguments of Python, so many times; `hosts` is a file of this MPI's that names hosts."""
        chosen = [self.path, "-n", str(processes)]
        if self.family == "Open MPI":
            chosen += [
                "--oversubscribe",
                *(["--bind-to", "none"] if processes > len(processors()) else []),
                *(["--hostfile", hosts] if hosts else []),
            ]
        elif hosts:
            chosen += ["-f", hosts]
        return [*chosen, sys.executable, STARTED, *program]

    def environment(self, processes: int, given: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The variables of its processes: threads of each by the cores there are, and leave to run as root where the caller does."""
        threads = str(max(1, len(processors()) // processes))
        found = {"TVM_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        if self.family == "Open MPI" and os.geteuid() == 0:
            found |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return {**found, **given}


def library() -> str:
    """The family of the MPI that mpi4py uses. Raises `ShardingError` where there is none."""
    try:
        import mpi4py

        before, mpi4py.rc.initialize = mpi4py.rc.initialize, False  # asked only, not started
        try:
            from mpi4py import MPI
        finally:
            mpi4py.rc.initialize = before
    except (ImportError, RuntimeError) as error:
        raise ShardingError("run", f"mpi4py does not load ({f'{error}'.splitlines()[0]})", "pip install 'spmd[mpi]'.") from None
    text = MPI.Get_library_version()
    return next((family for family, begin in _FAMILIES.items() if text.startswith(begin)), text.split(",")[0])


def find() -> Launcher:
    """The launcher of that MPI: beside the interpreter, or on the path. Raises `ShardingError` where there is none."""
    family, beside = library(), str(Path(sys.executable).parent)
    found: dict[str, str] = {}
    names = ("mpiexec", "mpiexec.hydra")  # of two MPIs that are installed in one place, one has the first name
    for path in (shutil.which(name, path=where) for name in names for where in (beside, None)):
        if path is not None and path not in found:
            found[path] = _family(path)
            if found[path] == family:
                return Launcher(path, family)
    if not found:
        raise ShardingError("run", f"there is no mpiexec, and mpi4py uses {family}", "pip install 'spmd[mpi]'.")
    path, other = next(iter(found.items()))
    raise ShardingError("run", f"{path} is of {other}, and mpi4py uses {family}", f"Put the mpiexec of {family} on the path.")


def _family(path: str) -> str:
    """What an mpiexec says that it is."""
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "no MPI"
    by_text = {"Open MPI": "Open MPI", "OpenRTE": "Open MPI", "PRRTE": "Open MPI", "Intel(R) MPI": "Intel", "HYDRA": "MPICH"}
    return next((family for mark, family in by_text.items() if mark in text), "no known MPI")


def run(processes: int, program: Sequence[str], hosts: str | None = None) -> None:
    """Become the launcher of so many processes that run `program`: signals and the exit code are its own. Does not return."""
    launcher = find()
    if hosts is not None and not os.path.isfile(hosts):
        raise ShardingError("run", f"there is no host file {hosts!r}", "It has a line for each host, as this MPI writes them.")
    if program[:1] != ["-m"] and not os.path.isfile(program[0]):
        raise ShardingError("run", f"there is no script {program[0]!r}", "Give a file, or -m and a module.")
    sys.stdout.flush()
    os.execve(launcher.path, launcher.command(processes, program, hosts), launcher.environment(processes))
