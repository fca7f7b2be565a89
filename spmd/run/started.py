"""What `python -m spmd run` starts in each process: a script, as `python -m mpi4py` runs it, where MPI has begun already.

Of a process that is interrupted while MPI begins, mpi4py does not see that it failed: it waits for the others at its end, while they wait
for it. So Ctrl-C is held back until MPI has begun, and ends all then.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

from mpi4py.run import main, set_abort_status


def begin() -> None:
    """Begin MPI."""
    interrupted: list[int] = []
    # Not a mask, which holds back what comes to one thread only: any other one may take the signal.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    import_module("mpi4py.MPI")
    signal.signal(signal.SIGINT, before)
    if interrupted:
        error = KeyboardInterrupt()
        set_abort_status(error)
        raise error


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as python -m has it: this file is run as it is, for scripts that do not import all of spmd
    begin()
    main()
