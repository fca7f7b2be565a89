"""Kernels of small blocks on NVIDIA's GPUs: several are to fit a multiprocessor, without registers spilled to memory."""

from __future__ import annotations

import re
import shutil

import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.script import ir as I  # pyright: ignore[reportMissingModuleSource]
from tvm.script import tirx as T  # pyright: ignore[reportMissingModuleSource]

from benchmarks.builds import build, spills
from spmd.schedules.gpu import BoundRegisters

TWO_KERNELS = """
@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def twice(A: T.Buffer((1024,), "float32"), B: T.Buffer((1024,), "float32")):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        for block in T.thread_binding(4, "blockIdx.x"):
            for thread in T.thread_binding(256, "threadIdx.x"):
                B[block * 256 + thread] = A[block * 256 + thread] + T.float32(1)
        for block in T.thread_binding(2, "blockIdx.x"):
            for thread in T.thread_binding(512, "threadIdx.x"):
                B[block * 512 + thread] = A[block * 512 + thread] * T.float32(2)
"""


def bounds(source: str) -> dict[str, tuple[int, ...]]:
    """What `__launch_bounds__` says of each kernel."""
    found = re.findall(r"__launch_bounds__\(([\d, ]+)\) (\w+)\([^{;]*\{", source)
    return {name: tuple(int(part) for part in said.split(",")) for said, name in found}


def test_only_small_blocks_are_bounded() -> None:
    mod = tvm.script.from_source(TWO_KERNELS, extra_vars={"I": I, "T": T})
    made = BoundRegisters()(mod)
    compiled = tvm.compile(made, tvm.target.Target({"kind": "cuda", "arch": "sm_90"}))
    assert bounds(compiled.mod.imports[0].inspect_source()) == {"twice_kernel": (256, 4), "twice_kernel_1": (512,)}


def test_what_is_not_scheduled_stays() -> None:
    mod = relax.transform.LegalizeOps()(tvm.IRModule({"main": _add()}))
    assert tvm_ffi.structural_equal(BoundRegisters()(mod), mod)


def _add() -> relax.Function:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((64,), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.add(x, x)))
    return builder.get()["main"]


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc to ask")
def test_attention_spills_nothing() -> None:
    source = build("llama-2-70b", "q4f16_1", "sm_90", 2, methods=("create_paged_kv_cache",)).source
    assert bounds(source)["batch_prefill_paged_kv_kernel"] == (128, 4)
    assert spills(source, "sm_90", "nvcc").startswith("0 B of ")
