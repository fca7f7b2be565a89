"""Workers whose kernels are those of OpenCL GPUs, run on the processors of this machine: schedules for GPUs, tested without a GPU.

TVM's wheel generates OpenCL and cannot run it. Here its device ``opencl`` is the memory of the host, and pocl, an OpenCL for CPUs
(https://portablecl.org), runs the kernels as they are written, with their work groups, barriers and local memory.
``spmd.workers(sharded, backend="pocl", target="opencl")``; needs the extra ``spmd[pocl]``.
"""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pyopencl as cl
import tvm
import tvm_ffi

from spmd.collectives.communicator import Communicator, Tensor
from spmd.collectives.threads import ThreadBackend
from spmd.errors import ShardingError
from spmd.placement.arrays import check_dtype
from spmd.placement.dtypes import numpy_dtype
from spmd.placement.layout import Array
from spmd.placement.mesh import Mesh

_BUILD = "target.build.opencl"
_TURN = threading.Lock()
"""One kernel at a time: pocl spreads each over all processors."""
_CACHE = tempfile.TemporaryDirectory(prefix="pocl-", ignore_cleanup_errors=True)
_MINE = threading.local()
"""What a thread has. A worker's: `launches`, the kernels of its program, as programs have kernels of the same names. One that compiles:
for this backend: `generated`, the kernels in each source, from when its target is accepted until the program is adopted.
"""


@dataclass(frozen=True)
class _Launch:
    """What its host code passes: values for these parameters, then the sizes of these parts of the grid."""

    dtypes: tuple[str, ...]
    """The dtype of each parameter; empty for a pointer."""
    extents: tuple[str, ...]


class PoclBackend(ThreadBackend):
    """Threads that meet in the memory of the host, each with a virtual machine for OpenCL. float16 is refused where pocl lacks it."""

    takes_libraries = False

    def __init__(self, mesh: Mesh, timeout: float) -> None:
        self._context, self._queue = _opencl()
        self._launches: dict[str, Callable[..., None]] = {}
        super().__init__(mesh, timeout)

    def device(self, rank: int) -> Any:
        """OpenCL's, of which all is host memory."""
        return tvm_ffi.device("opencl", 0)

    def communicator(self, rank: int) -> Communicator:
        """The communicator of worker `rank`, whose thread this is."""
        _MINE.launches = self._launches
        return super().communicator(rank)

    def view(self, tensor: Tensor) -> Array:
        """See `ThreadBackend`."""
        check_dtype(tensor.dtype)
        kind = numpy_dtype(str(tensor.dtype))
        shape = tuple(map(int, tensor.shape))
        return _bytes(tensor.data_ptr(), math.prod(shape, start=kind.itemsize)).view(kind).reshape(shape)

    def accept(self, target: tvm.target.Target) -> None:
        """See `Backend`."""
        if target.kind.name != "opencl":
            what = f"backend 'pocl' runs OpenCL, and the target is {target.kind.name!r}"
            raise ShardingError("workers", what, 'Pass target="opencl".')
        _MINE.generated = {}

    def adopt(self, executable: Any) -> None:
        """Take the OpenCL out of the program: TVM looks for its kernels among global functions then."""
        generated = _MINE.__dict__.pop("generated", {})
        for source in {device.inspect_source() for host in executable.mod.imports for device in host.imports}:
            self._compile(source, generated[source])
        for host in executable.mod.imports:
            host.clear_imports()

    def _compile(self, source: str, kernels: Mapping[str, _Launch]) -> None:
        lacking = [e for e in ("cl_khr_fp16", "cl_khr_fp64") if e in source and e not in self._context.devices[0].extensions]
        if lacking:
            raise ShardingError("backend 'pocl'", f"a kernel needs {lacking[0]}, which this pocl lacks", "Use float32.")
        program = cl.Program(self._context, source).build(["-w"])
        for name, kernel in kernels.items():
            self._launches[name] = self._launch(program, name, kernel)
            before = tvm.get_global_func(name, allow_missing=True)
            tvm_ffi.register_global_func(name, partial(_run, name, before), override=True)

    def _launch(self, program: Any, name: str, kernel: _Launch) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            sizes = dict(zip(kernel.extents, map(int, args[len(kernel.dtypes) :]), strict=True))
            if 0 in sizes.values():
                return
            local = tuple(sizes.get(f"threadIdx.{axis}", 1) for axis in "xyz")
            whole = tuple(sizes.get(f"blockIdx.{axis}", 1) * size for axis, size in zip("xyz", local, strict=True))
            with _TURN:
                run = cl.Kernel(program, name)
                for i, (arg, dtype) in enumerate(zip(args, kernel.dtypes, strict=False)):
                    pointer = arg.value if isinstance(arg, ctypes.c_void_p) else arg
                    run.set_arg(i, np.dtype(dtype).type(arg) if dtype else cl.SVM(_bytes(pointer, 1)))
                cl.enqueue_nd_range_kernel(self._queue, run, whole, local)
                self._queue.finish()

        return launch


def _run(name: str, before: Any, *args: Any) -> Any:
    """The kernel of the program of this thread; elsewhere, the function that had the name."""
    launch = _MINE.__dict__.get("launches", {}).get(name, before)
    if launch is None:
        raise ShardingError("backend 'pocl'", f"kernel {name!r} is called in a thread that is no worker")
    return launch(*args)


def _bytes(address: Any, count: int) -> Array:
    """Memory of the host. Of what is passed to a kernel, only the address counts."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address or 0))


@cache
def _opencl() -> tuple[Any, Any]:
    """A context and a queue on a processor. Makes host memory of TVM's device ``opencl``, and notes what kernels TVM generates."""
    os.environ.setdefault("POCL_CACHE_DIR", _CACHE.name)  # else in the user's home, which thousands of programs would fill
    try:
        found = [d for platform in cl.get_platforms() for d in platform.get_devices(cl.device_type.CPU)][:1]
        context = cl.Context(found)
    except cl.Error:
        raise ShardingError("backend 'pocl'", "OpenCL finds no CPU here", "pip install 'spmd[pocl]', on Linux for x86-64.") from None
    if tvm.get_global_func("device_api.opencl", allow_missing=True) is not None:
        raise ShardingError("backend 'pocl'", "this TVM runs OpenCL itself", "Use a virtual machine on its device.")
    tvm_ffi.register_global_func("device_api.opencl", tvm.get_global_func("device_api.cpu"))
    generate: Any = tvm.get_global_func(_BUILD)

    def noted(mod: tvm.IRModule, target: tvm.target.Target) -> Any:
        made = generate(mod, target)
        if "generated" not in _MINE.__dict__:  # of a program that is not for this backend
            return made
        kernels = {str(f.attrs["global_symbol"]): _described(f) for f in mod.functions.values()}
        _MINE.generated[made.inspect_source()] = kernels
        return made

    tvm_ffi.register_global_func(_BUILD, noted, override=True)
    return context, cl.CommandQueue(context)


def _described(func: tvm.tirx.PrimFunc) -> _Launch:
    dtypes = tuple("" if isinstance(p.ty, tvm.ir.PointerType) else str(p.ty.dtype) for p in func.params)
    return _Launch(dtypes, tuple(str(tag) for tag in func.attrs["tirx.kernel_launch_params"]))
