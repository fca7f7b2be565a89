"""The shared suite, compiled: on threads, on threads bound as for a library, and on processes."""

import re
from collections.abc import Iterator

import pytest

from spmd.collectives import backend, register_backend
from spmd.collectives.threads import ThreadBackend
from spmd.placement.mesh import Mesh
from spmd.run.launch import library
from tests.collectives.suite import EIGHT, MESHES, in_rows, run
from tests.mpi import mpirun, need_mpi


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backend, "_FACTORIES", dict(backend._FACTORIES))
    register_backend("rows", in_rows(ThreadBackend))


@pytest.mark.parametrize("carrier", ["threads", "rows"])
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_on_threads(mesh: Mesh, carrier: str) -> None:
    assert run(mesh, carrier) > 100


@pytest.mark.parametrize("mesh", EIGHT, ids=str)
def test_on_eight_threads(mesh: Mesh) -> None:
    assert run(mesh, "rows", 12) > 8


@pytest.mark.mpi
@pytest.mark.parametrize(("workers", "carrier", "every"), [(8, "mpi", 64), (2, "mpi-calls", 12)])
def test_some_on_processes(workers: int, carrier: str, every: int) -> None:
    """Some operations where all cost too much: on eight processes, and by calls of MPI, as between hosts."""
    ended = mpirun(workers, "-m", "tests.collectives.mpi_suite", carrier, every, 1, forked=True)
    assert ended.code == 0, ended.err
    assert len(re.findall(r"^Mesh.*: \d+ collectives$", ended.out, re.M)) == workers * (2 if workers == 8 else 1)
    assert ended.out.count("functions of 1 programs") == workers


@pytest.mark.mpi
def test_on_mpich() -> None:
    """By calls of MPI, and in shared memory; each process on its own, as MPICH's launcher gives each a session that none can join."""
    need_mpi()
    if library() != "MPICH":
        pytest.skip("mpi4py does not use MPICH: pip install 'spmd[mpich]', or set MPI4PY_MPIABI=mpich where both are installed")
    for carrier in ("mpi-calls", "mpi"):
        ended = mpirun(2, "-m", "tests.collectives.mpi_suite", carrier, 3, 2)
        assert ended.code == 0, ended.err
        assert ended.out.count("functions of 2 programs") == 2


@pytest.mark.mpi
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_on_processes(workers: int) -> None:
    """With random programs after it, whose plans, numbers and traffic are compared as on threads."""
    ended = mpirun(workers, "-m", "tests.collectives.mpi_suite", "mpi", 1, 8, timeout=900.0, forked=workers == 4)
    assert ended.code == 0, ended.err
    meshes = [str(mesh) for mesh in MESHES if mesh.size == workers]
    assert sorted(set(re.findall(r"^(Mesh.*): \d+ collectives$", ended.out, re.M))) == sorted(meshes)
    assert ended.out.count("functions of 8 programs") == (workers if workers > 1 else 0)
