"""Expressions that name a part of themselves, whose bodies share something with what comes after them."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax.frontend.nn.llm import kv_cache
from tvm.script import tirx as T

import spmd
from spmd.schedules.lets import InlineLets

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@T.prim_func(s_tir=True)
def shares(a: T.Buffer((8,), "int32"), b: T.Buffer((16,), "int32")):
    for i in range(8):
        x = T.int32()
        with T.sblock("shares"):
            v = T.axis.spatial(8, i)
            b[v] = T.Let(x * x + (a[v] * 7 + 3), where={x: a[v] + 2})
            b[v + 8] = (a[v] * 7 + 3) * (a[v] * 7 + 3)


@T.prim_func(s_tir=True)
def written_out(a: T.Buffer((8,), "int32"), b: T.Buffer((16,), "int32")):
    for i in range(8):
        with T.sblock("shares"):
            v = T.axis.spatial(8, i)
            b[v] = (a[v] + 2) * (a[v] + 2) + (a[v] * 7 + 3)
            b[v + 8] = (a[v] * 7 + 3) * (a[v] * 7 + 3)


def inlined(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return InlineLets()(tvm.IRModule({"main": func}))["main"]


def test_they_are_written_out() -> None:
    tvm.ir.assert_structural_equal(inlined(shares).body, written_out.body, map_free_vars=True)
    assert inlined(written_out).same_as(written_out)


def test_a_kernel_of_a_users_with_one_runs() -> None:
    builder = relax.BlockBuilder()
    with builder.function("main", [x := relax.Var("x", relax.TensorType((8,), "int32"))]):
        kernel = builder.add_func(shares, "shares")
        builder.emit_func_output(builder.emit(relax.call_tir(kernel, [x], out_ty=relax.TensorType((16,), "int32"))))
    a = np.arange(8, dtype="int32")
    with spmd.workers(builder.get()) as w:
        np.testing.assert_array_equal(w["main"](a), np.concatenate([(a + 2) ** 2 + a * 7 + 3, (a * 7 + 3) ** 2]))


def test_what_doubles_again_and_again_stays_short() -> None:
    """Each of 30 names stands three times in the next: written out, that would be 3 ** 30 of the first."""
    first, *names = (tirx.Var(f"x{i}", "int32") for i in range(31))
    body = names[-1] + 1
    for name, before in reversed(list(zip(names, [first, *names], strict=False))):
        body = tirx.Let(name, before * before + before, body)
    assert len(inlined(tirx.PrimFunc([first], tirx.Evaluate(body))).script()) < 200_000


@pytest.mark.parametrize("kind", ["webgpu", "metal"])
def test_attention_of_llama_3_builds(kind: str) -> None:
    """Four heads of queries share a key, and rotary embeddings are scaled in attention: TVM's own pipeline does not build this kernel."""
    target = tvm.target.Target({"kind": kind})
    with target:
        attention = kv_cache.tree_attn(4, 16, 128, "float16", LLAMA3, target)
    host = target.with_host("llvm")
    tirx.build(tvm.IRModule({"attention": inlined(attention).with_attr("global_symbol", "attention")}), host)
