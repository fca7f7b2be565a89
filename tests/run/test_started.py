"""What each process of `python -m spmd run` begins with."""

import sys

import pytest

from spmd.run.launch import STARTED, find
from tests.mpi import ended, need_mpi

INTERRUPTED = """
import os, runpy, signal, sys, threading
sys.argv.pop(0)
if int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", 0))) == 1:
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SCRIPT = """
import time
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
time.sleep(60 * MPI.COMM_WORLD.rank)
MPI.COMM_WORLD.Barrier()
print("not reached")
"""


@pytest.mark.mpi
def test_an_interruption_while_mpi_begins_ends_all() -> None:
    need_mpi()
    launcher = find()
    command = launcher.command(2, ["-c", SCRIPT])
    place = command.index(STARTED)
    assert command[place - 1] == sys.executable
    run = ended([*command[:place], "-c", INTERRUPTED, *command[place:]], launcher.environment(2), timeout=50.0)
    assert run.code != 0 and "KeyboardInterrupt" in run.err
    assert "not reached" not in run.out
