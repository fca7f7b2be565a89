"""The backends of NCCL and RCCL: on the double, which MPI carries, and as far as they come without a GPU."""

import re

import pytest

from tests.mpi import mpirun

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(("workers", "every"), [(2, 6), (4, 24)])
def test_the_shared_suite_on_the_double(workers: int, every: int) -> None:
    """With random programs after it."""
    ended = mpirun(workers, "-m", "tests.collectives.mpi_suite", "nccl-double", every, 2, forked=True)
    assert ended.code == 0, ended.err
    assert len(re.findall(r"^Mesh.*: \d+ collectives$", ended.out, re.M)) == workers * (workers // 2)
    assert ended.out.count("functions of 2 programs") == workers


def test_groups_and_what_the_library_reports() -> None:
    ended = mpirun(2, "-m", "tests.collectives.nccl_run", timeout=120.0, forked=True)
    assert ended.code != 0 and ended.out.count("began") == 2, ended.err
    assert "not reached" not in ended.out
    assert "spmd.collectives.CollectiveError: NCCL reports on worker 1: error 6:" in ended.err
