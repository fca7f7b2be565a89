"""Arrays that are put in one piece of memory keep their values, of each type, however they lie."""

import gc

import ml_dtypes
import numpy as np
import pytest
import tvm

from spmd.run.tensors import Room


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "int64", "uint32", "int8", "bool"])
def test_cuts_of_arrays(dtype):
    room, kept = Room(), []
    for rows in (1, 3, 9000, 0, 700):
        whole = (np.arange(rows * 3000).reshape(rows, 3000) % 7).astype(dtype)
        cut = whole[:, 1001:2000]
        kept.append((room.tensor(cut, tvm.cpu()), cut.copy()))
        whole[:] = 0  # of which it is a copy
    del room
    gc.collect()
    for tensor, expected in kept:
        assert tensor.shape == expected.shape and str(tensor.dtype) == np.dtype(dtype).name
        np.testing.assert_array_equal(tensor.numpy().view(dtype), expected)


def test_each_begins_where_kernels_expect_it():
    room = Room()
    for size in (1, 63, 64, 65, 9_000_001, 1, 8_000_000):
        assert np.from_dlpack(room.tensor(np.ones(size, "float32"), tvm.cpu())).ctypes.data % 64 == 0


def test_turned_and_without_dimensions():
    turned = np.arange(4_000_000, dtype="float32").reshape(2000, 2000).T
    for array in (turned, np.float32(3.5).reshape(())):
        tensor = Room().tensor(array, tvm.cpu())
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.shape == array.shape


def test_small_ones_lie_beside_each_other():
    room = Room()
    first, second = (np.from_dlpack(room.tensor(np.ones(10, "float32"), tvm.cpu())).ctypes.data for _ in range(2))
    assert second - first == 64
