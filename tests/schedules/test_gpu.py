"""Schedules for GPUs: what TVM's rules cannot do goes on to the next rule, what they get wrong is written another way first."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import tirx as T

import spmd
from spmd import schedules
from spmd.schedules.scans import BarrierScans
from spmd.schedules.single import SingleTerms
from tests.pocl import on_pocl
from tests.schedules.kernels import Build, module, normal
from tests.test_programs import drawn

CUDA = {"kind": "cuda", "arch": "sm_90"}


def kernels(mod: tvm.IRModule, target: dict[str, str] = CUDA) -> dict[str, tirx.PrimFunc]:
    """The scheduled PrimFuncs of `mod`."""
    built = schedules.pipeline(schedules.resolve(target))(mod)
    return {v.name_hint: f for v, f in built.functions_items() if isinstance(f, tirx.PrimFunc)}


def on_gpu(mod: tvm.IRModule, *arrays: np.ndarray) -> np.ndarray:
    """`main` with the kernels of a GPU."""
    with on_pocl(mod) as w:
        return w["main"](*arrays)


def first_column(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    """Of a product of one row: dlight's GEMV is not written for a result of one element."""
    weight = builder.emit(relax.op.permute_dims(args[1]))
    product = builder.emit(relax.op.matmul(args[0], weight))
    return builder.emit(relax.op.strided_slice(product, [1], [0], [1]))


def test_a_rule_that_fails_leaves_it_to_the_next_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    mod = module([((1, 64), "float32"), ((64, 64), "float32")], first_column)
    with caplog.at_level(logging.WARNING, "spmd"):
        (kernel,) = kernels(mod).values()
    said = [record.message for record in caplog.records if record.name == "spmd"]
    assert "the rule GEMV fails, the next one is tried (ValueError: not enough values" in said[0] and "strided_slice" in said[0]
    assert "the rule Reduction fails" in said[1] and "matmul_intermediate_intermediate_shared" in said[1]
    assert kernel.attrs["spmd.schedule_rule"] not in ("GEMV", "Reduction")
    x, w = normal(0, (1, 64), "float32"), normal(1, (64, 64), "float32")
    np.testing.assert_allclose(on_gpu(mod, x, w), x @ w.T[:, :1], rtol=1e-5)


class Unlowered(tvm.s_tir.dlight.gpu.Fallback):
    """Binds the reduction to threads around the spatial loop, which TVM finds out later that it cannot lower."""

    def apply(self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> tvm.s_tir.Schedule:
        sch = tvm.s_tir.Schedule(func)
        rows, reduced = sch.get_loops(sch.get_child_blocks(sch.get_sblock("root"))[0])
        sch.reorder(reduced, rows)
        sch.bind(reduced, "threadIdx.x")
        return sch


def test_what_tvm_cannot_lower_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    mod = relax.transform.LegalizeOps()(module([((8, 32), "float32")], lambda builder, args: builder.emit(relax.op.sum(args[0], 1))))
    with schedules.resolve(CUDA), caplog.at_level(logging.WARNING, "spmd"):
        made = schedules.GPUSchedules([Unlowered(), tvm.s_tir.dlight.gpu.Fallback()])(mod)
    assert made["sum"].attrs["spmd.schedule_rule"] == "Fallback"
    assert "kernel 'sum': the rule Unlowered fails, the next one is tried (" in caplog.text


def grouped(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    """An index of it is a quotient, the group of a channel, and something follows the sum."""
    return builder.emit(relax.op.tanh(builder.emit(relax.op.nn.conv1d(args[0], args[1], groups=3, dilation=2))))


def test_threads_read_what_they_wrote_themselves(caplog: pytest.LogCaptureFixture) -> None:
    """By dlight's Reduction two threads have their results exchanged."""
    mod = module([((2, 3, 6), "float32"), ((6, 1, 3), "float32")], grouped)
    assert [f.attrs["spmd.schedule_rule"] for f in kernels(mod).values()] == ["GeneralReduction"]
    assert "the rule Reduction fails" in caplog.text and "threads read what other threads have in 'group_conv1d" in caplog.text
    x, w = normal(0, (2, 3, 6), "float32"), normal(1, (6, 1, 3), "float32")
    with spmd.workers(mod) as workers:
        expected = workers["main"](x, w)
    np.testing.assert_allclose(on_gpu(mod, x, w), expected, rtol=1e-5)


@pytest.mark.slow
def test_random_programs_compile() -> None:
    """By TVM's own pass these end in an error of dlight's, as one program in 25 does."""
    functions = {name: f for case in drawn(1, 60) for name, f in case.mod.functions_items()}
    assert schedules.build(tvm.IRModule(functions), CUDA) is not None


@I.ir_module
class Single:
    @T.prim_func(private=True, s_tir=True)
    def main(a: T.Buffer((8, 1), "float32"), b: T.Buffer((8,), "float32"), c: T.Buffer((8,), "float32")):
        for i, k in T.grid(8, 1):
            with T.sblock("one"):
                v, r = T.axis.remap("SR", [i, k])
                with T.init():
                    b[v] = T.float32(0)
                b[v] = b[v] + a[v, r]
        for i, k in T.grid(8, 2):
            with T.sblock("two"):
                v, r = T.axis.remap("SR", [i, k])
                with T.init():
                    c[v] = T.float32(0)
                c[v] = c[v] + a[v, 0]


@I.ir_module
class Plain:
    @T.prim_func(private=True, s_tir=True)
    def main(a: T.Buffer((8, 1), "float32"), b: T.Buffer((8,), "float32"), c: T.Buffer((8,), "float32")):
        for i, k in T.grid(8, 1):
            with T.sblock("one"):
                v, r = T.axis.remap("SS", [i, k])
                b[v] = T.Add(T.float32(0), a[v, r])
        for i, k in T.grid(8, 2):
            with T.sblock("two"):
                v, r = T.axis.remap("SR", [i, k])
                with T.init():
                    c[v] = T.float32(0)
                c[v] = c[v] + a[v, 0]


@I.ir_module
class Elsewhere:
    """A block that reads its result at another place than it writes: not a reduction that this pass knows."""

    @T.prim_func(private=True, s_tir=True)
    def main(a: T.Buffer((8, 1), "float32"), b: T.Buffer((9,), "float32")):
        for i, k in T.grid(8, 1):
            with T.sblock("one"):
                v, r = T.axis.remap("SR", [i, k])
                with T.init():
                    b[v + 1] = T.float32(0)
                b[v + 1] = b[v] + a[v, r]


def test_a_sum_of_one_term_is_that_term() -> None:
    before = Single.script()
    tvm.ir.assert_structural_equal(SingleTerms()(Single), Plain)
    assert Single.script() == before
    assert all(SingleTerms()(mod)["main"].same_as(mod["main"]) for mod in (Plain, Elsewhere))


def normalized(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    """Over an axis of one element."""
    mean = builder.emit(relax.op.mean(args[0], [1], keepdims=True))
    apart = builder.emit(relax.op.subtract(args[0], mean))
    variance = builder.emit(relax.op.mean(builder.emit(relax.op.square(apart)), [1], keepdims=True))
    scale = builder.emit(relax.op.rsqrt(builder.emit(relax.op.add(variance, relax.const(0.1, "float32")))))
    return builder.emit(relax.op.add(builder.emit(relax.op.multiply(apart, scale)), scale))


def test_what_follows_a_sum_of_one_term_is_not_done_to_its_start_too() -> None:
    """TVM alone gives rsqrt(rsqrt(0 + 0.1) + 0 + 0.1)."""
    found = on_gpu(module([(("n", 1, 1), "float32")], normalized), normal(0, (5, 1, 1), "float32"))
    np.testing.assert_allclose(found, np.full((5, 1, 1), 0.1**-0.5), rtol=1e-6)


SCANS: list[Build] = [
    lambda builder, args: builder.emit(relax.op.cumsum(args[0], 1)),
    lambda builder, args: builder.emit(relax.op.cumsum(args[0], -1, "float64")),
    lambda builder, args: builder.emit(relax.op.cumsum(args[0], 1, exclusive=True)),
    lambda builder, args: builder.emit(relax.op.cumsum(args[0], 0)),
    lambda builder, args: builder.emit(relax.op.cumsum(args[0])),
]


@pytest.mark.parametrize("number", range(len(SCANS)))
def test_scans(number: int) -> None:
    """The first two are wrong by TVM's kernel for warps, where threads do not run in step."""
    x = normal(0, (3, 300), "float32")
    wanted = [
        np.cumsum(x, 1),
        np.cumsum(x.astype("float64"), 1),
        np.cumsum(x, 1) - x,
        np.cumsum(x, 0),
        np.cumsum(x),
    ][number]
    found = on_gpu(module([((3, "n"), "float32")], SCANS[number]), x)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_only_sums_along_the_last_axis_are_turned() -> None:
    for number, build in enumerate(SCANS):
        mod = module([((3, 300), "float32")], build)
        assert (BarrierScans()(mod).script() == mod.script()) == (number >= 3)
