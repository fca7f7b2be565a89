"""Whole numbers that do not fit their type."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import tirx as T

from spmd.schedules.wrapping import WrapIntegers
from tests.pocl import on_pocl
from tests.schedules.kernels import module, run

op = relax.op
X = np.array([-300, -130, -3, -1, 0, 1, 2, 3, 100, 127, 128, 255, 256, 300])


def narrowed(x, kind):
    """The type may not hold what is known of the number."""
    small = op.astype(op.multiply(op.maximum(x, relax.const(0, "int64")), relax.const(64, "int64")), kind)
    return op.floor_divide(op.astype(small, "int64"), relax.const(128, "int64"))


def narrowed_by_numpy(x, kind):
    return (np.maximum(x, 0) * 64).astype(kind).astype("int64") // 128


def added(x, kind):
    """The sum of two that are known to be large."""
    large = op.maximum(op.astype(x, kind), relax.const(100, kind))
    return op.greater(op.astype(op.add(large, large), "int64"), relax.const(199, "int64"))


def added_by_numpy(x, kind):
    large = np.maximum(x.astype(kind), np.array(100, kind))
    return (large + large).astype("int64") > 199


def below_zero(x, kind):
    """A type without a sign, of what is known to be negative."""
    negative = op.astype(op.minimum(x, relax.const(-1, "int64")), kind)
    return op.floor_divide(op.astype(negative, "int64"), relax.const(2, "int64"))


def below_zero_by_numpy(x, kind):
    return np.minimum(x, -1).astype(kind).astype("int64") // 2


CASES = [(f, by, kind) for f, by in ((narrowed, narrowed_by_numpy), (added, added_by_numpy)) for kind in ("int8", "uint8", "int16")]
CASES += [(below_zero, below_zero_by_numpy, kind) for kind in ("uint8", "uint16", "uint32")]


def program(function, kind):
    normal = relax.transform.Normalize()
    return normal(module([((len(X),), "int64")], lambda builder, args: function(args[0], kind)))


@pytest.mark.parametrize(("function", "by_numpy", "kind"), CASES)
def test_numbers_wrap_as_those_of_numpy(function, by_numpy, kind):
    """Put together in one kernel, most of these were wrong."""
    np.testing.assert_array_equal(run(program(function, kind), [X]), by_numpy(X, kind))


@pytest.mark.gpu
def test_they_wrap_on_gpus_too():
    for function, by_numpy, kind in CASES:
        with on_pocl(program(function, kind)) as w:
            np.testing.assert_array_equal(w["main"](X), by_numpy(X, kind), err_msg=f"{function.__name__} {kind}")


@I.ir_module
class Before:
    @T.prim_func(private=True, s_tir=True)
    def main(a: T.Buffer((12,), "int64"), b: T.Buffer((12,), "uint8"), c: T.Buffer((12,), "int8"), total: T.Buffer((1,), "uint8")):
        for i in range(12):
            with T.sblock("c"):
                v = T.axis.spatial(12, i)
                c[v] = T.Cast("int8", a[v]) + T.Cast("int8", a[v] % T.int64(100)) + T.Cast("int8", v)
        for i in range(12):
            with T.sblock("total"):
                v = T.axis.reduce(12, i)
                with T.init():
                    total[0] = T.uint8(0)
                total[0] = total[0] + (b[v] + T.uint8(1))


@I.ir_module
class After:
    @T.prim_func(private=True, s_tir=True)
    def main(a: T.Buffer((12,), "int64"), b: T.Buffer((12,), "uint8"), c: T.Buffer((12,), "int8"), total: T.Buffer((1,), "uint8")):
        for i in range(12):
            with T.sblock("c"):
                v = T.axis.spatial(12, i)
                c[v] = T.reinterpret(
                    "int8",
                    T.reinterpret(
                        "uint8",
                        T.reinterpret(
                            "int8",
                            T.reinterpret(
                                "uint8",
                                T.Cast("int8", T.reinterpret("int64", T.reinterpret("uint64", a[v]))) + T.Cast("int8", a[v] % T.int64(100)),
                            ),
                        )
                        + T.Cast("int8", v),
                    ),
                )
        for i in range(12):
            with T.sblock("total"):
                v = T.axis.reduce(12, i)
                with T.init():
                    total[0] = T.uint8(0)
                total[0] = total[0] + T.reinterpret("uint8", T.reinterpret("int8", b[v] + T.uint8(1)))


def test_what_may_not_fit_is_hidden_and_sums_and_indices_stay():
    before = Before.script()
    tvm.ir.assert_structural_equal(WrapIntegers()(Before), After)
    assert Before.script() == before
