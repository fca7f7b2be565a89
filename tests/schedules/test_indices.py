"""Indices of another type than the sizes that they index."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import tirx as T

from spmd.schedules.indices import TypeIndices
from tests.pocl import on_pocl
from tests.schedules.kernels import module, run

op = relax.op
X = np.arange(48, dtype="int64").reshape(3, 4, 4)


def program(takes: str, kind: str) -> tuple[tvm.IRModule, list[np.ndarray], np.ndarray]:
    """A part of a triangle, which asks where each element stands, taken by indices of a type."""
    at = np.array([3, 0, 2], kind) if takes == "take" else np.array([[[3, 1]] * 4, [[0, 2]] * 4, [[2, 2]] * 4], kind)

    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        triangle = builder.emit(op.tril(args[0], 0))
        return op.take(triangle, args[1], axis=2, mode="fast") if takes == "take" else op.gather_elements(triangle, args[1], axis=2)

    mod = module([(X.shape, "int64"), (at.shape, kind)], lambda builder, args: builder.emit(body(builder, args)))
    expected = np.tril(X)[..., at] if takes == "take" else np.take_along_axis(np.tril(X), at.astype("int64"), 2)
    return mod, [X, at], expected


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("takes", ["take", "gather_elements"])
def test_parts_of_triangles(takes: str, kind: str) -> None:
    mod, arrays, expected = program(takes, kind)
    np.testing.assert_array_equal(run(mod, arrays), expected)


@pytest.mark.gpu
def test_on_gpus_too() -> None:
    for takes in ("take", "gather_elements"):
        mod, arrays, expected = program(takes, "int32")
        with on_pocl(mod) as w:
            np.testing.assert_array_equal(w["main"](*arrays), expected, err_msg=takes)


@I.ir_module
class Before:
    @T.prim_func(private=True, s_tir=True)
    def main(x: T.Buffer((T.int64(8),), "int32"), at: T.Buffer((T.int64(4),), "int32"), y: T.Buffer((4,), "int32")):
        for i in range(4):
            with T.sblock("y"):
                v = T.axis.spatial(4, i)
                T.reads(x[0:8], at[0:4], y[0:4])
                T.writes(y[v])
                y[v] = x[at[v] + 1] + x[v + 1] + y[at[v]]


@I.ir_module
class After:
    @T.prim_func(private=True, s_tir=True)
    def main(x: T.Buffer((T.int64(8),), "int32"), at: T.Buffer((T.int64(4),), "int32"), y: T.Buffer((4,), "int32")):
        for i in range(4):
            with T.sblock("y"):
                v = T.axis.spatial(4, i)
                T.reads(x[0:8], at[0:4], y[0:4])
                T.writes(y[v])
                y[v] = x[T.Cast("int64", at[v] + 1)] + x[v + 1] + y[at[v]]


def test_what_is_read_from_memory_is_cast_where_types_differ() -> None:
    tvm.ir.assert_structural_equal(TypeIndices()(Before), After)
