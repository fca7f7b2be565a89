"""Run by `test_suite.py` on several processes: the shared suite, then random programs, each with its own words when all is well."""

import sys

from hypothesis import strategies as st
from mpi4py import MPI

from spmd.testing import assert_all_equivalent
from tests.collectives.suite import MESHES, positions, run
from tests.test_programs import drawn

if __name__ == "__main__":
    size, programs = MPI.COMM_WORLD.size, int(sys.argv[1])
    for mesh in MESHES:
        if mesh.size == size:
            positions(mesh, "mpi")
            print(f"{mesh}: {run(mesh, 'mpi')} collectives", flush=True)
    if size > 1:
        cases = drawn(size, programs, st.sampled_from([mesh for mesh in MESHES if mesh.size == size]))
        print(f"{assert_all_equivalent(cases, seed=size, backend='mpi')} functions of {len(cases)} programs", flush=True)
