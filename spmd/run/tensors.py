"""Arrays of the host as tensors of a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from spmd.collectives.cores import CPU

_ALIGNED = 64
"""Bytes, as kernels expect of TVM's own memory."""
_CHUNK = 1 << 25


class Room:
    """Memory of the host for arrays that stay, such as weights, in few large pieces, each of which is there as long as a tensor in it.

    It is NumPy's, which asks for large pages where the system gives them on advice only, and for pieces from 4 MB on; TVM never asks. Of
    weights in large pages, each step reads all in a tenth to a fifth less time.
    """

    def __init__(self) -> None:
        self._left: NDArray[np.uint8] = np.empty(0, np.uint8)

    def tensor(self, array: NDArray[Any], device: Any) -> Any:
        """A copy of `array` on `device`, contiguous; on devices with memory of their own, it is there."""
        if device.dlpack_device_type() != CPU or not array.nbytes:
            return tensor_of(array, device)
        memory = self._take(array.nbytes)
        np.copyto(memory.view(array.dtype).reshape(array.shape), array)
        # DLPack carries bytes only: NumPy gives it no type of ml_dtypes
        return tvm.runtime.from_dlpack(memory)._create_view(array.shape, str(array.dtype))

    def _take(self, size: int) -> NDArray[np.uint8]:
        if size >= _CHUNK:
            return _aligned(size)[:size]
        padded = -(-size // _ALIGNED) * _ALIGNED
        if padded > len(self._left):
            self._left = _aligned(_CHUNK)
        taken, self._left = self._left[:size], self._left[padded:]
        return taken


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + _ALIGNED, np.uint8)
    return memory[-memory.ctypes.data % _ALIGNED :]


def tensor_of(array: NDArray[Any], device: Any) -> Any:
    """A copy of `array` on `device`, contiguous, in memory of TVM's own."""
    return tvm.runtime.tensor(np.ascontiguousarray(array).reshape(array.shape), device)
