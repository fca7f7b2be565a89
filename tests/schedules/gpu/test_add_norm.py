"""A residual and its norm in one kernel: the numbers, by pocl, and which pairs are left as they are."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.target import Target

from spmd.schedules.gpu import FuseAddNorm
from tests.pocl import on_pocl
from tests.schedules.kernels import Build, module, normal

EPSILON = 1e-5


def norm(builder: relax.BlockBuilder, total: relax.Expr, weight: relax.Expr, axes: tuple[int, ...] = (-1,)) -> relax.Expr:
    return builder.emit(relax.op.nn.rms_norm(total, weight, axes=list(axes), epsilon=EPSILON))


def pair(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    """The norm and the sum, of which one term comes in another type."""
    total = builder.emit(relax.op.add(args[0], builder.emit(relax.op.astype(args[1], "float32"))))
    return relax.Tuple([norm(builder, total, args[2]), total])


def twice(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    """Two layers, whose kernels are one."""
    total = builder.emit(relax.op.add(args[0], args[1]))
    following = builder.emit(relax.op.add(total, norm(builder, total, args[2])))
    return norm(builder, following, args[2])


def fused(mod: tvm.IRModule, kind: str = "opencl") -> tvm.IRModule:
    with Target({"kind": kind, "arch": "sm_90"} if kind == "cuda" else kind):
        return FuseAddNorm()(mod)


def kernels(mod: tvm.IRModule) -> list[str]:
    return sorted(gv.name_hint for gv in mod.get_global_vars() if gv.name_hint != "main")


@pytest.mark.parametrize("shape", [("n", 1, 48), (3, 1030)], ids=str)
def test_the_norm_and_the_sum(shape: tuple[int | str, ...]) -> None:
    mod = fused(module([(shape, "float32"), (shape, "float64"), (shape[-1:], "float32")], pair))
    assert kernels(mod) == ["add_rms_norm"] and "R.astype" not in mod["main"].script()
    given = tuple(5 if size == "n" else int(size) for size in shape)
    x, y, w = normal(0, given, "float32"), normal(1, given, "float64"), normal(2, given[-1:], "float32")
    with on_pocl(mod) as workers:
        found, total = workers["main"](x, y, w)
    np.testing.assert_array_equal(total, x + y.astype("float32"))
    wanted = total / np.sqrt((total.astype("float64") ** 2).mean(-1, keepdims=True) + EPSILON) * w
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_layers_share_a_kernel() -> None:
    mod = module([((2, 8), "float32"), ((2, 8), "float32"), ((8,), "float32")], twice)
    before = mod.script()
    assert kernels(fused(mod)) == ["add_rms_norm"] and fused(mod)["main"].script().count("R.call_tir(") == 2
    assert mod.script() == before


def broadcast(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    return norm(builder, builder.emit(relax.op.add(args[0], args[2])), args[2])


def late(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    """The weight of the norm is made after the sum."""
    total = builder.emit(relax.op.add(args[0], args[1]))
    return norm(builder, total, builder.emit(relax.op.negative(args[2])))


def two_axes(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    weight = builder.emit(relax.op.broadcast_to(args[2], (2, 8)))
    return norm(builder, builder.emit(relax.op.add(args[0], args[1])), weight, (0, 1))


def plain(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    return norm(builder, builder.emit(relax.op.add(args[0], args[1])), args[2])


@pytest.mark.parametrize(
    ("build", "shape", "dtype"),
    [
        (broadcast, (2, 8), "float32"),
        (late, (2, 8), "float32"),
        (two_axes, (2, 8), "float32"),
        (plain, (2, "n"), "float32"),
        (plain, (2, 8191), "float32"),  # a prime: no two threads share it evenly
        (plain, (2, 8), "float64"),
    ],
    ids=["broadcast", "late", "two axes", "unknown", "prime", "float64"],
)
def test_what_is_left_as_it_is(build: Build, shape: tuple[int | str, ...], dtype: str) -> None:
    mod = module([(shape, dtype), (shape, dtype), (shape[-1:], dtype)], build)
    assert fused(mod)["main"].script() == mod["main"].script()


def test_half_precision_reads_vectors() -> None:
    shape = (1, 1, 8192)
    mod = fused(module([(shape, "float16"), (shape, "float16"), ((8192,), "float16")], plain), "cuda")
    script = mod["add_rms_norm"].script()
    assert script.replace("T.int64(4)", "4").count("T.vectorized(4)") == 2
    assert 'T.thread_binding(1024, thread="threadIdx.x")' in script.replace("T.int64(1024)", "1024")
