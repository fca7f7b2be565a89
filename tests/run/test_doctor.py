"""What works here: each line is a finding, and what does not work says what mends it."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import tvm

from spmd.__main__ import main
from spmd.collectives.native import nccl
from spmd.collectives.native.nccl import NCCL, RCCL
from spmd.errors import ShardingError
from spmd.run import doctor
from spmd.run.doctor import Finding, examine
from spmd.run.self_test import program
from spmd.run.workers import workers
from tests.mpi import need_mpi


def test_every_part_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tvm", "linker", "threads", "pocl", "mpi", "gpus", "nccl", "rccl"]


def test_what_is_missing_says_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_mpi() -> None:
        raise ShardingError("run", "mpi4py does not load", "pip install 'spmd[mpi]'.")

    monkeypatch.setattr(doctor, "find", no_mpi)
    monkeypatch.setattr(doctor.shutil, "which", lambda _name: None)
    found = {finding.name: finding for finding in examine()}
    assert str(found["mpi"]) == "mpi       no     mpi4py does not load. pip install 'spmd[mpi]'"
    assert not found["linker"].works and found["linker"].way_out == "Install g++."


def test_what_passes_for_a_device_of_any_number_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backend pocl has TVM take the host's memory for that of OpenCL devices, whatever their number."""
    monkeypatch.setattr(tvm, "get_global_func", lambda *_args, **_named: print)
    monkeypatch.setattr(tvm, "device", lambda _kind, _number: SimpleNamespace(exist=True))
    assert nccl.present("opencl") == 0
    monkeypatch.setattr(tvm, "device", lambda _kind, number: SimpleNamespace(exist=number < 2))
    assert nccl.present("cuda") == 2


@pytest.mark.mpi
def test_two_processes_meet() -> None:
    need_mpi()
    found = next(finding for finding in examine() if finding.name == "mpi")
    assert found.works and found.found.endswith("two processes met"), found


@pytest.mark.mpi
def test_processes_that_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    need_mpi()
    ended = subprocess.CompletedProcess([], 1, "right\n", "Traceback\nCollectiveError: worker 0 waited\n----\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_args, **_named: ended)
    monkeypatch.setattr(doctor, "find", lambda: doctor_launcher)
    finding = next(finding for finding in examine() if finding.name == "mpi")
    assert finding == Finding("mpi", False, "Open MPI, started by mpiexec: two processes do not meet (CollectiveError: worker 0 waited)")


def test_gpus_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    need_mpi()
    monkeypatch.setattr(doctor, "Library", lambda *_: "NCCL 2.28.3")
    assert doctor._of_gpus(NCCL, True) == Finding("nccl", False, "NCCL 2.28.3 loads, and TVM sees no cuda device")
    monkeypatch.setattr(doctor, "present", lambda _kind: 1)
    assert doctor._of_gpus(NCCL, True) == Finding("nccl", True, "NCCL 2.28.3, 1 cuda devices"), "one GPU is not for two workers"
    monkeypatch.setattr(doctor, "present", lambda _kind: 2)
    monkeypatch.setattr(doctor, "_met", lambda name, _launcher, where: (name, where))
    assert doctor._of_gpus(RCCL, True) == ("rccl", "NCCL 2.28.3, 2 rocm devices")


doctor_launcher = type("Fake", (), {"family": "Open MPI", "path": "mpiexec", "command": lambda *_: [], "environment": lambda *_: {}})()


def test_the_program_of_the_self_test_is_right_on_threads() -> None:
    with workers(program()) as running:
        assert running["main"](np.arange(8, dtype="float32").reshape(2, 4)).tolist() == [[4, 6, 8, 10]]
