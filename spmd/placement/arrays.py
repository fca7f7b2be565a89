"""Tensors of any library as NumPy arrays: the one reader for calls, weights that are loaded, and weights that are cut.

PyTorch is not imported: its tensors are known by what they can do, and cross as DLPack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import ml_dtypes
import numpy as np
import tvm

from spmd.checks import told
from spmd.errors import ShardingError

from .layout import Array

# DLPack to NumPy stops at these: they pass as unsigned integers of their width
_BY_BITS: dict[str, tuple[str, Any]] = {
    name: (f"uint{np.dtype(getattr(ml_dtypes, name)).itemsize * 8}", np.dtype(getattr(ml_dtypes, name)))
    for name in (
        "bfloat16",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
}


def view(tensor: Any) -> Array:
    """The memory of a TVM tensor on the CPU as an array, without a copy. Raises TypeError for packed types (int4)."""
    dtype = tensor.dtype
    by_bits = _BY_BITS.get(dtype)
    if by_bits is not None:
        return np.from_dlpack(tensor._create_view(tensor.shape, by_bits[0])).view(by_bits[1])
    check_dtype(dtype)
    return np.from_dlpack(tensor)


def check_dtype(dtype: Any) -> None:
    """Raise TypeError for packed types (int4)."""
    if dtype.bits < 8:
        raise TypeError(f"a collective cannot move {dtype}: its elements are packed, {dtype.bits} bits each")


def array_of(where: str, value: Any) -> Array | None:
    """A tensor of any library as an array of this machine's byte order, without a copy where it can be; None if it is no tensor.

    Raises `ShardingError` for a tensor that holds no numbers that can be read: on PyTorch's meta device, sparse, masked, of packed types.
    """
    try:
        found = _read(where, value)
    except ShardingError:
        raise
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ShardingError(where, f"{told(value)} cannot be read ({error})", "Pass a dense tensor, or a NumPy array.") from error
    if found is None or found.dtype.isnative:
        return found
    return found.astype(found.dtype.newbyteorder("="))


def weights_of(where: str, given: Any, call: str) -> Mapping[str, Any] | list[Any]:
    """Weights by name, or in order; `call` is what stands before them in a call, for errors."""
    if isinstance(given, Mapping):
        return cast("Mapping[str, Any]", given)
    tensor = any(hasattr(given, name) for name in ("__array__", "__dlpack__"))
    if tensor or isinstance(given, str | bytes | type) or not isinstance(given, Iterable):
        way_out = f"Write {call}({{'w1': array, ...}}), or {call}([array, ...]) in the order of the parameters."
        raise ShardingError(where, f"it takes weights by name or in order, and got {told(given)}", way_out)
    return list(cast("Iterable[Any]", given))


def host(tensor: tvm.runtime.Tensor) -> Array:
    """A tensor of TVM as an array, without a copy where it is on the CPU."""
    return view(tensor) if tensor.device.type == "cpu" else tensor.numpy()


def _read(where: str, value: Any) -> Array | None:
    if isinstance(value, type):
        return None
    if isinstance(value, tvm.runtime.Tensor):
        return host(value)
    if isinstance(value, np.ma.MaskedArray):
        raise ShardingError(where, "it is a masked array, and tensors have no mask", "Write array.filled(0), or what stands for nothing.")
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if hasattr(value, "detach") and hasattr(value, "__dlpack__"):
        return _of_torch(where, value)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else None


def _of_torch(where: str, tensor: Any) -> Array:
    """A tensor of PyTorch: without its gradients, on the CPU, in one piece."""
    if getattr(tensor, "is_meta", False):
        way_out = "Load it onto a device first, by to_empty() and load_state_dict()."
        raise ShardingError(where, "it is on the meta device, where tensors have no numbers", way_out)
    plain = tensor.detach().cpu().contiguous()
    try:
        return np.from_dlpack(plain)
    except (BufferError, RuntimeError, TypeError):
        pass  # NumPy knows no bfloat16, TVM does
    try:
        return host(tvm.runtime.from_dlpack(plain))
    except RuntimeError:  # of a tensor that begins in the middle of another, or in a file
        return host(tvm.runtime.from_dlpack(plain.clone()))
