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
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    import_module("mpi4py.MPI")
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    except KeyboardInterrupt as error:
        set_abort_status(error)
        raise


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as python -m has it: this file is run as it is, for scripts that do not import all of spmd
    begin()
    main()
