"""The command that starts a script on several processes: what it finds, what it says, and that arguments arrive."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spmd.__main__ import main
from spmd.errors import ShardingError
from spmd.run import launch
from spmd.run.launch import Launcher, find
from tests.mpi import ROOT, need_mpi


def test_the_command_of_each_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "processors", lambda: [0, 1])
    python = [sys.executable, launch.STARTED, "script.py", "-n"]
    open_mpi, mpich = Launcher("/bin/mpiexec", "Open MPI"), Launcher("/bin/mpiexec", "MPICH")
    assert open_mpi.command(2, ["script.py", "-n"]) == ["/bin/mpiexec", "-n", "2", "--oversubscribe", *python]
    more = ["/bin/mpiexec", "-n", "4", "--oversubscribe", "--bind-to", "none", "--hostfile", "hosts"]
    assert open_mpi.command(4, ["script.py", "-n"], "hosts") == [*more, *python]
    assert mpich.command(4, ["script.py", "-n"], "hosts") == ["/bin/mpiexec", "-n", "4", "-f", "hosts", *python]


def test_the_variables_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "processors", lambda: list(range(8)))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = Launcher("mpiexec", "Open MPI").environment(3, {"HOME": "/root", "OMP_NUM_THREADS": "5"})
    assert found["TVM_NUM_THREADS"] == "2" and found["OMP_NUM_THREADS"] == "5" and found["OMPI_ALLOW_RUN_AS_ROOT"] == "1"
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in Launcher("mpiexec", "MPICH").environment(16, {})
    assert Launcher("mpiexec", "MPICH").environment(16, {})["TVM_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "-n", "2"], "error: run: 2 workers for no script. Write python -m spmd run -n 2 script.py."),
        (["run", "-n", "0", "script.py"], "error: run: 0 workers for script.py."),
        (["run", "-n", "2", "-m"], "error: run: 2 workers for -m."),
    ],
)
def test_what_cannot_be_started(capsys: pytest.CaptureFixture[str], arguments: list[str], text: str) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(text)


@pytest.mark.mpi
def test_files_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    need_mpi()
    assert main(["run", "-n", "2", "nowhere.py"]) == 1
    assert "run: there is no script 'nowhere.py'" in capsys.readouterr().err
    assert main(["run", "-n", "2", "--hosts", "nowhere", __file__]) == 1
    assert "run: there is no host file 'nowhere'" in capsys.readouterr().err


def test_an_mpi_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "library", lambda: "Open MPI")
    monkeypatch.setattr(launch.shutil, "which", lambda *_args, **_named: None)
    with pytest.raises(ShardingError, match=r"run: there is no mpiexec, and mpi4py uses Open MPI\. pip install 'spmd\[mpi\]'\."):
        find()
    monkeypatch.setattr(launch.shutil, "which", lambda *_args, **_named: "/bin/true")
    with pytest.raises(ShardingError, match=r"run: /bin/true is of no known MPI, and mpi4py uses Open MPI\. Put the mpiexec of Open MPI"):
        find()


@pytest.mark.mpi
def test_arguments_and_the_exit_code_arrive(tmp_path: Path) -> None:
    need_mpi()
    script = tmp_path / "script.py"
    script.write_text("import sys; from mpi4py import MPI; print(sys.argv[1:], MPI.COMM_WORLD.size); sys.exit(3)")
    command = [sys.executable, "-m", "spmd", "run", "-n", "2", str(script), "-n", "7", "--hosts"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert "['-n', '7', '--hosts'] 2" in ended.stdout
    assert ended.returncode == 3, ended.stderr
