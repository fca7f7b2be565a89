"""Quotients and remainders of indices that fall."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, te, tirx
from tvm.script import ir as I
from tvm.script import tirx as T

from spmd.schedules.mirror import MirrorIndices
from tests.schedules.kernels import module, run


@I.ir_module
class Falling:
    @T.prim_func(private=True, s_tir=True)
    def main(a: T.Buffer((12,), "int32"), b: T.Buffer((4, 4), "int32")):
        for i, j in T.grid(4, 4):
            with T.sblock("b"):
                v, w = T.axis.remap("SS", [i, j])
                T.reads(a[0:12])
                T.writes(b[v, w])
                b[v, w] = a[(7 - v) % 3 + (4 - v * 2) // 3 + 2] + a[(v - w) % 3] + a[(5 - v) % (w + 1)]


@I.ir_module
class Rising:
    @T.prim_func(private=True, s_tir=True)
    def main(a: T.Buffer((12,), "int32"), b: T.Buffer((4, 4), "int32")):
        for i, j in T.grid(4, 4):
            with T.sblock("b"):
                v, w = T.axis.remap("SS", [i, j])
                T.reads(a[0:12])
                T.writes(b[v, w])
                b[v, w] = a[2 - (v - 8) % 3 + (-1 - (v * 2 - 5) // 3) + 2] + a[(v - w) % 3] + a[(5 - v) % (w + 1)]


def test_what_falls_is_mirrored_and_all_else_stays() -> None:
    before = Falling.script()
    tvm.ir.assert_structural_equal(MirrorIndices()(Falling), Rising)
    assert Falling.script() == before
    assert MirrorIndices()(Rising)["main"].same_as(Rising["main"])


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("shift", range(-2, 6))
def test_falling_indices_give_what_they_say(n: int, shift: int) -> None:
    """Compiled by TVM alone, most of these are wrong."""
    size, low = 7, 6

    def kernel(x: te.Tensor) -> te.Tensor:
        def read(i: tirx.Var) -> tirx.PrimExpr:
            return x[tirx.floormod(shift - i, n)] + 10 * x[tirx.floordiv(shift - i, n) + low]

        return te.compute((size,), read, name="kernel")

    mod = module([((12,), "float64")], lambda builder, args: builder.emit_te(kernel, args[0]))
    x, i = np.arange(12.0), np.arange(size)
    np.testing.assert_array_equal(run(mod, [x]), x[(shift - i) % n] + 10 * x[(shift - i) // n + low])


def test_a_roll_and_a_flip_in_one_kernel() -> None:
    def roll(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda i: x[tirx.floormod(i + 2, 3)], name="roll")

    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        return builder.emit(relax.op.flip(builder.emit_te(roll, args[0]), 0))

    mod = module([((3,), "float64")], body)
    np.testing.assert_array_equal(run(mod, [np.array([1.0, 2.0, 3.0])]), [2.0, 1.0, 3.0])
