"""Half precision in float32."""

import pytest
import tvm_ffi
from tvm import te, tirx

from spmd.schedules.widen import widen


@pytest.mark.parametrize(
    "value",
    [
        lambda a, i: te.if_then_else(i < 3, a[i] * a[i], a[i] + tirx.const(1, "float16")),
        lambda a, i: tirx.Select(i < 3, a[i] * a[i], a[i]),
        lambda a, i: tirx.log2(a[i] * a[i]),
        lambda a, i: te.exp(a[i] * a[i]),
    ],
    ids=["choice", "select", "log2", "exp"],
)
def test_arithmetic_is_in_float32(value):
    a = te.placeholder((8,), "float16")
    after = widen(te.create_prim_func([a, te.compute((8,), lambda i: value(a, i))]))
    types = set()
    tvm_ffi.structural_walk(after.body, ((tirx.Mul, tirx.Add), lambda e: types.add(str(e.ty.dtype))))
    assert types == {"float32"}
