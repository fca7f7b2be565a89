"""Run by `test_nccl.py` on two processes with the double of NCCL: what is particular to it, then an error that the library reports."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

import spmd
from spmd.errors import ShardingError
from spmd.placement.mesh import Mesh
from tests.collectives.nccl_double import GROUPS, REPORTED, STATE
from tests.collectives.suite import Asked, program

MESH = Mesh(tp=2)
ONE = Asked("all_reduce", "tp", {"kind": "sum"}, ((4,),))
BUNDLE = Asked("all_gather", "tp", {"dim": 1}, ((2, 3), (2, 5), (2, 1)))


def groups() -> int:
    return int(STATE[GROUPS])


def main() -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    bundle = [np.arange(2 * n * 2, dtype=np.float32).reshape(2, 2, n) for n in (3, 5, 1)]
    with pytest.raises(ShardingError, match=r"Mesh\(tp=3\) has 3 workers, and MPI has started 2"):
        spmd.workers(SimpleNamespace(**{**vars(program(MESH, [ONE])), "mesh": Mesh(tp=3)}), backend="nccl-double")
    with spmd.workers(program(MESH, [ONE, BUNDLE]), backend="nccl-double", timeout=20.0) as w:
        before = groups()
        np.testing.assert_array_equal(w["case_0"](x)[0], np.stack([x.sum(0)] * 2))
        assert groups() == before, "a call alone is no group"
        found = w["case_1"](*bundle)
        assert groups() == before + 1, "a bundle is one group"
        assert [r.call for r in w.trace()] == [0, 0, 0] and [r.shape for r in w.trace()] == [(2, 3), (2, 5), (2, 1)]
        for given, got in zip(bundle, found, strict=True):
            np.testing.assert_array_equal(got[0], np.concatenate(list(given), 1))
    with spmd.workers(program(MESH, [ONE]), backend="nccl-double", timeout=20.0) as w:
        np.testing.assert_array_equal(w["case_0"](x)[0], np.stack([x.sum(0)] * 2))
        print("began", flush=True)
        STATE[REPORTED] = 6 * MPI.COMM_WORLD.rank
        time.sleep(30)
        print("not reached", flush=True)


if __name__ == "__main__":
    main()
