"""The processors of this machine, and how many of them each worker computes with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import tvm

CPU = 1
"""TVM's number of the kind of device that computes before a call returns."""
_CONFIGURE: Callable[..., Any] | None = tvm.get_global_func("runtime.config_threadpool", allow_missing=True)
_ANY_OF_THESE = -3
"""TVM's number of the mode in which each thread may run on all processors of a list; otherwise it binds each to one of its own choice."""
_TOLD = "TVM_NUM_THREADS"
_LOOKS = "TVM_THREAD_POOL_SPIN_COUNT"
_ENOUGH = "3000"
"""Times that a thread of TVM's looks for work before it sleeps: some milliseconds, the time between two steps. TVM's own 300,000 are most
of a second of a processor for each worker that starts."""


def processors() -> list[int]:
    """The processors that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def share(workers: int, there: int) -> int:
    """The threads of each of so many workers on so many processors: one at least, or as many as ``TVM_NUM_THREADS`` says."""
    told = os.environ.get(_TOLD, "")
    return max(1, int(told) if told.isdecimal() else there // workers)


def compute_with(threads: int) -> None:
    """Let kernels that the calling thread starts run on so many threads, this one among them, as far as there are processors.

    Sets the environment's `TVM_THREAD_POOL_SPIN_COUNT` where it is not set, which TVM reads once.
    """
    if _CONFIGURE is not None and hasattr(os, "sched_getaffinity"):
        os.environ.setdefault(_LOOKS, _ENOUGH)
        _CONFIGURE(_ANY_OF_THESE, threads, [str(number) for number in processors()], threads)
