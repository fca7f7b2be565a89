"""The shared suite, compiled: on threads, on threads bound as for a library, and on processes."""

import re
from collections.abc import Iterator

import pytest

from spmd.collectives import backend, register_backend
from spmd.collectives.threads import ThreadBackend
from spmd.placement.mesh import Mesh
from tests.collectives.suite import MESHES, in_rows, positions, run
from tests.mpi import mpirun


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backend, "_FACTORIES", dict(backend._FACTORIES))
    register_backend("rows", in_rows(ThreadBackend))


@pytest.mark.parametrize("carrier", ["threads", "rows"])
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_on_threads(mesh: Mesh, carrier: str) -> None:
    positions(mesh, carrier)
    assert run(mesh, carrier) > 100


@pytest.mark.mpi
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_on_processes(workers: int) -> None:
    """With random programs after it, whose plans, numbers and traffic are compared as on threads."""
    ended = mpirun(workers, "-m", "tests.collectives.mpi_suite", "mpi", 1, 8)
    assert ended.code == 0, ended.err
    meshes = [str(mesh) for mesh in MESHES if mesh.size == workers]
    assert sorted(set(re.findall(r"^(Mesh.*): \d+ collectives$", ended.out, re.M))) == sorted(meshes)
    assert ended.out.count("functions of 8 programs") == (workers if workers > 1 else 0)
