"""NCCL, and RCCL, which has its functions, as a table, and where they and the libraries of their devices are."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import tvm

from spmd.errors import ShardingError

from .table import Function, Table

NUMBERS = {
    **{"ncclInt8": 0, "ncclUint8": 1, "ncclInt32": 2, "ncclUint32": 3, "ncclInt64": 4, "ncclUint64": 5},
    **{"ncclFloat16": 6, "ncclFloat32": 7, "ncclFloat64": 8},
    **{"ncclSum": 0, "ncclProd": 1, "ncclMax": 2, "ncclMin": 3},
}
"""The numbers of its types and reductions, as nccl.h has them."""


def table(name: str, memset: str, memcpy: str) -> Table:
    """The table of a library with NCCL's functions, on devices whose memory is set and written to by these functions."""
    return Table(
        name=name,
        functions={
            "all_reduce": [Function("ncclAllReduce", "source target count type kind comm stream")],
            "all_gather": [Function("ncclAllGather", "source target count type comm stream")],
            "reduce_scatter": [Function("ncclReduceScatter", "source target part type kind comm stream")],
            "all_to_all": [
                Function("ncclSend", "source part type peer comm stream", each=True),
                Function("ncclRecv", "target part type peer comm stream", each=True),
            ],
            "permute": [
                Function(memset, "target zero bytes stream", when="receives_nothing"),
                Function("ncclSend", "source count type to comm stream", when="to"),
                Function("ncclRecv", "target count type from comm stream", when="from"),
            ],
            "broadcast": [Function("ncclBroadcast", "source target count type root comm stream")],
            "axis_index": [Function(memcpy, "target position bytes from_host stream")],
        },
        types={
            **{f"int{bits}": f"ncclInt{bits}" for bits in (8, 32, 64)},
            **{f"uint{bits}": f"ncclUint{bits}" for bits in (8, 32, 64)},
            **{"uint16": "ncclFloat16", "float32": "ncclFloat32", "float64": "ncclFloat64"},  # two bytes are moved only, never added up
        },
        kinds={"sum": "ncclSum", "prod": "ncclProd", "max": "ncclMax", "min": "ncclMin"},
        count="uint64",
        most=1 << 40,
        group=(Function("ncclGroupStart", ""), Function("ncclGroupEnd", "")),
    )


@dataclass(frozen=True)
class Vendor:
    """Whose devices they are: the library of collectives, the extra that brings it, and the library of the devices."""

    name: str
    library: str
    package: str
    """The Python package that may hold the library; it need not be there."""
    device: str
    """The device type as TVM calls it."""
    runtime: str
    """What the file of the devices' library is called, or begins with."""
    set_device: str
    memset: str
    memcpy: str

    @property
    def table(self) -> Table:
        """See `table`."""
        return table(self.name.upper(), self.memset, self.memcpy)

    def find(self) -> str:
        """The library's file in the Python package, or its name for the system to find."""
        try:
            found = importlib.util.find_spec(self.package) if self.package else None
        except ModuleNotFoundError:
            found = None
        folders = list(found.submodule_search_locations or ()) if found else []
        paths = [path for folder in folders if (path := Path(folder) / "lib" / self.library).is_file()]
        return str(paths[0]) if paths else self.library


NCCL = Vendor("nccl", "libnccl.so.2", "nvidia.nccl", "cuda", "libcudart.so.13", "cudaSetDevice", "cudaMemsetAsync", "cudaMemcpyAsync")
RCCL = Vendor("rccl", "librccl.so.1", "", "rocm", "libamdhip64.so", "hipSetDevice", "hipMemsetAsync", "hipMemcpyAsync")


def devices(vendor: Vendor, where: str) -> ctypes.CDLL:
    """The library of the devices, whose functions compiled code calls: the one that TVM has loaded, or the system's."""
    with open("/proc/self/maps") as maps:
        loaded = sorted(
            {line.split()[-1] for line in maps if "/" in line and os.path.basename(line.split()[-1]).startswith(vendor.runtime)}
        )
    path = loaded[0] if loaded else vendor.runtime
    try:
        library = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ShardingError(where, f"{path} does not load ({error})", f"Install the runtime of {vendor.device}.") from None
    missing = [symbol for symbol in (vendor.set_device, vendor.memset, vendor.memcpy) if not hasattr(library, symbol)]
    if missing:
        raise ShardingError(where, f"{path} has no {', '.join(missing)}", f"Install the runtime of {vendor.device}.")
    return library


def present(kind: str) -> int:
    """How many devices of a kind TVM sees. Where one of any number seems to be, as by backend pocl, none is."""
    if tvm.get_global_func(f"device_api.{kind}", allow_missing=True) is None or tvm.device(kind, _MOST).exist:
        return 0
    return next(i for i in range(_MOST + 1) if not tvm.device(kind, i).exist)


_MOST = 1 << 10
"""More devices than a machine has."""
