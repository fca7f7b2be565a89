"""The shared suite of backends on NCCL: one of two processes that `benchmarks/gpu/run.sh` starts.

python -m spmd run -n 2 -m benchmarks.gpu.suite [--every N] [--own-host]
"""

from __future__ import annotations

import argparse
import os
import sys

import spmd
from tests.collectives.suite import run


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="run one of so many cases")
    parser.add_argument("--own-host", action="store_true", help="tell NCCL that each process has a host of its own")
    parser.add_argument("--backend", default="nccl", help="another one, to try this program without a GPU")
    parser.add_argument("--target", default="cuda")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Run it; an error is a traceback and an exit code."""
    from mpi4py import MPI

    options, comm = parsed(arguments), MPI.COMM_WORLD
    if options.own_host:
        os.environ["NCCL_HOSTID"] = f"host-{comm.rank}"
    mesh = spmd.Mesh(tp=comm.size)
    print(
        f"worker {comm.rank}: {run(mesh, options.backend, options.every, options.target)} collectives over {comm.size} are right",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
