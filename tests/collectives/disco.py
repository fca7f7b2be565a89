"""TVM's Disco on a wheel that has its sessions and no library of collectives: workers whose collectives are Python functions over files.

As a program, it is a worker of a `ProcessSession`, and works where ``SPMD_DISCO`` names a folder that the workers share.
"""

import itertools
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi

FOLDER = "SPMD_DISCO"
PATIENCE = 60.0
_MEETINGS: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)
"""By worker: to Python, each call of a worker that is a thread comes from a new one."""


def forget() -> None:
    """Begin a session whose workers are threads."""
    _MEETINGS.clear()


def ready() -> Any:
    """`tvm.runtime.disco`: this wheel imports it before it loads the library that it is an interface of."""
    tvm_ffi.init_ffi_api("runtime.disco", "tvm.runtime.disco._ffi_api")
    import tvm.runtime.disco

    return tvm.runtime.disco


def _here() -> tuple[int, int]:
    """The number of this worker, and how many there are."""
    asked = tvm.get_global_func
    return int(asked("runtime.disco.worker_id")()[0]), int(asked("runtime.disco.world_size")())


def _everyone(mine: np.ndarray, in_group: bool) -> list[np.ndarray]:
    """What each worker of the group brings to this meeting, in order. A worker's meetings are numbered, group or not."""
    rank, size = _here()
    groups = int(os.environ.get(f"{FOLDER}_GROUPS", "1")) if in_group else 1
    first = rank - rank % (size // groups)
    number, folder = next(_MEETINGS[rank]), Path(os.environ[FOLDER])
    (folder / f".{number}-{rank}").write_bytes(mine.tobytes())
    os.replace(folder / f".{number}-{rank}", folder / f"{number}-{rank}")
    return [_read(folder / f"{number}-{other}", mine) for other in range(first, first + size // groups)]


def _read(path: Path, like: np.ndarray) -> np.ndarray:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            print(f"nobody writes {path}", file=sys.stderr, flush=True)
            os._exit(3)  # an exception in a worker of Disco ends the process without words
        time.sleep(0.002)
    return np.frombuffer(path.read_bytes(), like.dtype).reshape(like.shape)


KINDS = {0: np.add, 1: np.multiply, 2: np.minimum, 3: np.maximum}


@tvm_ffi.register_global_func("runtime.disco.allreduce", override=True)
def allreduce(send: Any, kind: Any, in_group: bool, out: Any) -> None:
    total = None
    for array in _everyone(send.numpy(), in_group):
        total = array if total is None else KINDS[int(kind[0])](total, array)
    out.copyfrom(total)


@tvm_ffi.register_global_func("runtime.disco.allgather", override=True)
def allgather(send: Any, in_group: bool, out: Any) -> None:
    out.copyfrom(np.concatenate(_everyone(send.numpy(), in_group)))


@tvm_ffi.register_global_func("runtime.disco.broadcast_from_worker0", override=True)
def broadcast(send: Any, in_group: bool, out: Any) -> None:
    out.copyfrom(_everyone(send.numpy(), in_group)[0])


@tvm_ffi.register_global_func("runtime.disco.scatter_from_worker0", override=True)
def scatter(send: Any, in_group: bool, out: Any) -> None:
    out.copyfrom(_everyone(send.numpy(), in_group)[0][_here()[0]])


if __name__ == "__main__":
    ready()
    from tvm.exec import disco_worker

    disco_worker.main()
