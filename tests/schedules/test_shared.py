"""Costly functions are computed once for all that share them."""

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx
from tvm.relax.frontend.nn.llm.position_embedding import llama_rope_with_position_map
from tvm.script import tirx as T

from spmd import schedules
from spmd.ir.expressions import intrinsic
from spmd.schedules.cpu.shared import ShareCostly
from spmd.schedules.lets import InlineLets

HEADS, GROUPS, SIZE = 6, 2, 32
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def after(kernel):
    """The kernel with its tables; None where there are none."""
    mod = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    made = ShareCostly()(mod)["main"]
    return None if made.same_as(mod["main"]) else made


def blocks(kernel):
    """The names of the blocks that call a sine or cosine."""
    found = []

    def see(block):
        calls = []
        tvm_ffi.structural_walk(block.body, (tvm.ir.Call, lambda call: calls.append(intrinsic(call))))
        if {"sin", "cos"} & set(calls):
            found.append(block.name_hint)

    tvm_ffi.structural_walk(kernel.body.block.body, (tvm.s_tir.SBlock, see))
    return found


@pytest.mark.parametrize("scaling", [{}, SCALED, {"rope_type": "gptj"}], ids=["plain", "llama3", "gptj"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rotary_embeddings(dtype, scaling):
    plain = llama_rope_with_position_map(1e4, 1.0, SIZE, HEADS, GROUPS, dtype, scaling, SIZE).with_attr("global_symbol", "main")
    shared = after(plain)
    assert blocks(plain) == ["llama_fused_rope"] and blocks(shared) == ["shared_0", "shared_1"]
    arrays = [
        np.random.default_rng(0).standard_normal((5, HEADS + 2 * GROUPS, SIZE)).astype(dtype),
        np.array([0, 1, 7, 500, 9000], "int32"),
    ]
    results = []
    target = schedules.resolve("llvm")
    for kernel, parallel in ((plain, False), (shared, False), (shared, True)):
        outputs = [tvm.runtime.tensor(np.zeros((5, heads, SIZE), dtype)) for heads in (HEADS, GROUPS, GROUPS)]
        with target:
            mod = InlineLets()(schedules.CPUSchedules(parallel=parallel)(tvm.IRModule({"main": kernel})))
            tvm.compile(mod, target)["main"](*map(tvm.runtime.tensor, arrays), *outputs, 1)
        results.append(np.concatenate([output.numpy() for output in outputs], 1))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5 if dtype == "float32" else 2e-3, atol=1e-6)


def of_rows(value, rows=8, columns=6):
    x, y = te.placeholder((rows, columns), name="x"), te.placeholder((rows,), name="y")
    where = te.placeholder((rows,), "int32", name="where")
    return te.create_prim_func([x, y, where, te.compute((rows, columns), lambda i, j: value(x, y, where, i, j))])


@pytest.mark.parametrize(
    "value",
    [
        lambda x, y, where, i, j: te.cos(x[i, j]) * y[i],
        lambda x, y, where, i, j: te.cos(y[where[i]]) * x[i, j],
        lambda x, y, where, i, j: tirx.if_then_else(i < 7, te.cos(y[i + 1]), 0.0) * x[i, j],
        lambda x, y, where, i, j: x[i, j] * y[i],
    ],
    ids=["of all dimensions", "where data say", "beyond the end", "cheap"],
)
def test_what_stays(value):
    assert after(of_rows(value)) is None


def test_a_table_for_each_function():
    shared = after(of_rows(lambda x, y, where, i, j: te.cos(y[i]) * te.sin(y[i]) + te.cos(y[i]) * te.cos(j * 0.5) * x[i, j]))
    assert blocks(shared) == ["shared_0", "shared_1", "shared_2"]
    assert [[int(size) for size in buffer.shape] for buffer in shared.body.block.alloc_buffers] == [[8], [8], [6]]
    assert after(of_rows(lambda x, y, where, i, j: te.cos(y[i]) * x[i, j], columns=3)) is None, "three do not share a table"


def test_what_the_kernel_writes_is_not_read_before():
    @T.prim_func(s_tir=True)
    def main(y: T.Buffer((8,), "float32"), x: T.Buffer((8, 6), "float32")):
        for i, j in T.grid(8, 6):
            with T.sblock("write"):
                a, b = T.axis.remap("SS", [i, j])
                x[a, b] = T.cos(y[a])
                y[a] = x[a, b]

    assert after(main) is None
