"""Large arrays keep their values, of each type, however they lie."""

import ml_dtypes
import numpy as np
import pytest
import tvm

from spmd.run.tensors import tensor_of


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "int64", "uint32", "int8", "bool"])
@pytest.mark.parametrize("rows", [3, 6000])
def test_a_cut_of_an_array(dtype, rows):
    whole = (np.arange(rows * 3000).reshape(rows, 3000) % 7).astype(dtype)
    cut = whole[:, 1000:2000]
    tensor, expected = tensor_of(cut, tvm.cpu()), cut.copy()
    whole[:] = 0  # of which it is a copy
    assert tensor.shape == expected.shape and str(tensor.dtype) == np.dtype(dtype).name
    np.testing.assert_array_equal(tensor.numpy().view(dtype), expected)


def test_large_ones_begin_where_kernels_expect_it():
    for _ in range(4):
        assert np.from_dlpack(tensor_of(np.ones((1 << 20) + 3, "float32"), tvm.cpu())).ctypes.data % 64 == 0


def test_order_of_columns():
    turned = np.arange(4_000_000, dtype="float32").reshape(2000, 2000).T
    np.testing.assert_array_equal(tensor_of(turned, tvm.cpu()).numpy(), turned)
