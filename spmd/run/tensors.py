"""Arrays of the host as tensors of a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from spmd.collectives.cores import CPU

_ALIGNED = 64
"""Bytes, as kernels expect of TVM's own memory."""
_LARGE = 1 << 22
"""Bytes from which on NumPy asks the system for large pages."""


def tensor_of(array: NDArray[Any], device: Any) -> Any:
    """A copy of `array` in memory of `device`, contiguous.

    Large ones on CPUs are in memory of NumPy's, which asks for large pages where the system gives these on advice only; TVM never asks.
    A weight of which each step reads all is read a tenth faster from them.
    """
    if device.dlpack_device_type() != CPU or array.nbytes < _LARGE:
        return tvm.runtime.tensor(np.ascontiguousarray(array).reshape(array.shape), device)
    room = np.empty(array.nbytes + _ALIGNED, np.uint8)
    begin = -room.ctypes.data % _ALIGNED
    memory = room[begin : begin + array.nbytes]
    np.copyto(memory.view(array.dtype).reshape(array.shape), array)
    # DLPack carries bytes only: NumPy gives it no type of ml_dtypes
    return tvm.runtime.from_dlpack(memory)._create_view(array.shape, str(array.dtype))
