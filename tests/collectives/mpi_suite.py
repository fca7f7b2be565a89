"""Run by `test_suite.py` on several processes: the shared suite, then random programs, each with its own words when all is well.

The arguments are the backend, of how many cases one is run, and the number of programs.
"""

import importlib
import sys

from hypothesis import strategies as st
from mpi4py import MPI

from spmd.collectives import register_backend
from spmd.collectives.mpi import MPIBackend
from spmd.testing import assert_all_equivalent
from tests.collectives.suite import EIGHT, MESHES, run
from tests.test_programs import drawn

if __name__ == "__main__":
    backend, every, programs, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), MPI.COMM_WORLD.size
    if backend == "nccl-double":
        importlib.import_module("tests.collectives.nccl_double")
    if backend == "mpi-calls":
        register_backend(backend, type("MPICalls", (MPIBackend,), {"shares": False}))
    for mesh in (*MESHES, *EIGHT):
        if mesh.size == size:
            print(f"{mesh}: {run(mesh, backend, every)} collectives", flush=True)
    if programs and size > 1:
        cases = drawn(size, programs, st.sampled_from([mesh for mesh in (*MESHES, *EIGHT) if mesh.size == size]))
        print(f"{assert_all_equivalent(cases, seed=size, backend=backend)} functions of {len(cases)} programs", flush=True)
