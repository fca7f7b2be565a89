"""Experts of MLC-LLM's models: its kernels are known, split by features, and made for local sizes."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm.script import tirx as T

import spmd
from spmd import P
from spmd.rules.kernel import Unreadable, read_group_gemm
from spmd.rules.kernel.group_gemm import GroupGemm, make_group_gemm
from spmd.testing import assert_equivalent, difference, simulate
from tests.models.experts import expert_layer, gemv, group_gemm, serial

SLOW = spmd.Profile("slow compute", flops=1e9, memory_bandwidth=1e8, link_bandwidth=1e9, link_latency=1e-5)


def layer(packed, experts=8, hidden=2048, features=1408, rows=None, dtype="float16", **changed):
    kernels = (
        group_gemm(experts, 2 * features, hidden, dtype, packed=packed),
        group_gemm(experts, hidden, features, dtype, packed=packed, **changed),
    )
    return expert_layer(kernels, rows, name="dequantize_group_gemm" if packed else "group_gemm")


FINGERPRINTS = {
    ((4, 130, 96), "float16", False): 3420496534469142405,
    ((3, 64, 32), "float16", False): 3887939154049008048,
    ((8, 2816, 2048), "float16", False): 15494891314717730333,
    ((3, 256, 64), "float32", False): 15905160871732266581,
    ((4, 130, 96), "float16", True): 11380510426932193041,
    ((3, 64, 32), "float16", True): 2725432699073743441,
    ((8, 2048, 1408), "float16", True): 3643686972411878277,
    ((3, 192, 64), "float32", True): 3472349895984502397,
    ((64, 64, 32), "float32", True): 5574714151507287279,
}
"""`structural_hash` of the kernels that MLC-LLM makes: `group_gemm` and `dequantize_group_gemm` ("int4", groups of 32) of its
``python/mlc_llm/op/moe_matmul.py`` at commit 79d603f, called for these experts, features out and features in with TVM 0.27."""


@pytest.mark.parametrize(("sizes", "dtype", "packed"), FINGERPRINTS)
def test_the_kernel_is_made_again_to_the_letter(sizes, dtype, packed):
    made = group_gemm(*sizes, dtype, packed=packed)
    assert tvm_ffi.structural_hash(made, map_free_vars=True) == FINGERPRINTS[sizes, dtype, packed]
    found = read_group_gemm(made)
    assert (found.experts, found.out, found.depth, found.unit) == (*sizes, 32)
    assert tvm_ffi.structural_equal(make_group_gemm(found), made, map_free_vars=True)


def test_a_fingerprint_tells_bodies_apart():
    made, other = (group_gemm(4, 130, 96, relu=relu) for relu in (False, True))
    assert tvm_ffi.structural_hash(other, map_free_vars=True) != tvm_ffi.structural_hash(made, map_free_vars=True)
    with pytest.raises(Unreadable, match="is not the product of groups that MLC-LLM makes for its sizes"):
        read_group_gemm(other)


def unpacked(words, scale):
    levels = (words[..., None] >> (np.arange(8, dtype="uint32") * 4)) & 15
    return (levels.reshape(*words.shape[:-1], -1).astype("float32") - 7) * np.repeat(scale, 32, axis=-1)


@pytest.mark.parametrize("packed", [False, True])
def test_what_it_computes(packed):
    """On a CPU, without its threads: an expert without rows, tiles that are not full."""
    experts, out, depth, bounds = 4, 130, 64, np.array([0, 3, 3, 13, 20], "int32")
    g = GroupGemm(experts, out, depth, "float32", *((8, 2, "uint32") if packed else ()))
    func = serial(make_group_gemm(g)).with_attr("global_symbol", "main")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, depth)).astype("float32")
    weights = [rng.standard_normal((experts, out, depth)).astype("float32")]
    if packed:
        weights = [
            rng.integers(0, 2**32, (experts, out, 8), dtype="uint64").astype("uint32"),
            rng.random((experts, out, 2)).astype("float32"),
        ]
    whole = unpacked(*weights) if packed else weights[0]
    result = tvm.runtime.tensor(np.zeros((20, out), "float32"))
    tvm.compile(tvm.IRModule({"main": func}), "llvm")["main"](*map(tvm.runtime.tensor, (x, *weights, bounds)), result)
    expected = np.concatenate([x[bounds[e] : bounds[e + 1]] @ whole[e].T for e in range(experts)])
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("packed", [False, True])
def test_one_sum_a_layer(packed, workers):
    """44 groups of 32 features: over 3 and 8 workers whole groups are padded."""
    mod = layer(packed)
    sharded = spmd.shard(mod, workers)
    plan = sharded.plan
    assert [c.kind for c in plan.collectives] == ["all_reduce"] and plan.notes == []
    up, down = plan.params["up_weight"].dims, plan.params["down_weight"].dims
    assert [d is not None for d in (*up, *down)] == [False, True, False, False, False, True]
    assert [s.size for s in up[1].segments] == [1408, 1408]
    held = -(-44 // workers) * 32
    local = {name: f for name, f in sharded.mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    sizes = {(g.out, g.depth) for g in map(read_group_gemm, local.values())}
    assert sizes == {(2048, held), (2 * held, 2048)}


def without_threads(mod):
    """The module with all kernels as a CPU runs them."""
    made = {var: serial(f) if isinstance(f, tvm.tirx.PrimFunc) else f for var, f in mod.functions_items()}
    return tvm.IRModule(made, attrs=mod.attrs)


@pytest.mark.parametrize(("features", "packed", "asked"), [(128, False, "weight"), (128, True, "weight"), (96, True, "scale")])
def test_what_two_workers_compute(features, packed, asked):
    """The local kernels run on the CPU, without threads; three groups over two workers are padded."""
    experts, hidden, rows = 3, 64, 13
    mod = layer(packed, experts, hidden, features, rows, dtype="float32")
    sharded = spmd.shard(mod, 2, {f"down_{asked}": P(None, None, "tp")}, profile=SLOW)
    rng = np.random.default_rng(0)

    def weights(out, depth):
        if not packed:
            return [rng.standard_normal((experts, out, depth)).astype("float32") / 8]
        words = rng.integers(0, 2**32, (experts, out, depth // 8), dtype="uint64").astype("uint32")
        return [words, rng.random((experts, out, depth // 32)).astype("float32") / 64]

    x, bounds = rng.standard_normal((rows, hidden)).astype("float32"), np.array([0, 4, 4, rows], "int32")
    given = [x, bounds, *weights(2 * features, hidden), *weights(hidden, features)]
    expected = simulate(without_threads(mod), lambda w: w["main"](*given))
    found = simulate(replace(sharded, mod=without_threads(sharded.mod)), lambda w: w["main"](*given))
    assert not (wrong := difference(expected, found, 1e-3)), wrong
    assert sharded.plan.notes == []


def test_another_body_is_left_whole():
    """Features of x may not be summed in parts under a ReLU, and a kernel that is not known is not split at all."""
    plan = spmd.plan(layer(False, relu=True), 2)
    assert plan.params["down_weight"].is_replicated
    (note,) = plan.notes
    assert "it is scheduled, and is not the product of groups that MLC-LLM makes for its sizes" in note


def test_other_arguments_are_refused():
    @T.prim_func(private=True, s_tir=True)
    def of_columns(
        x: T.Buffer((8, 64), "float16"), w: T.Buffer((4, 64, 96), "float16"), p: T.Buffer((5,), "int32"), o: T.Buffer((8, 96), "float16")
    ):
        T.func_attr({"tirx.is_scheduled": 1})
        T.evaluate(0)

    with pytest.raises(Unreadable, match="its arguments have other shapes than those of a product of groups"):
        read_group_gemm(of_columns)


@pytest.mark.parametrize(("out", "depth", "workers"), [(96, 64, 2), (10, 96, 2), (9, 160, 3)])
@pytest.mark.parametrize("specs", [{"w": P(None, "tp", None)}, {"scale": P(None, None, "tp")}, {"w": P("tp", None, None)}])
def test_the_product_for_one_token(specs, out, depth, workers):
    """Blocks inside of a block are read: features split, those that are summed leave a partial sum, experts stay together."""
    experts, chosen = 3, 2
    func = gemv(experts, out, depth, chosen, threads=False)
    bb = tvm.relax.BlockBuilder()
    kernel = bb.add_func(func, "moe_dequantize_gemv")
    names = ("x", "w", "scale", "indptr")
    types = [tvm.relax.TensorType(list(p.ty.shape), str(p.ty.dtype.dtype)) for p in func.params[:-1]]
    x, w, scale, indptr = (tvm.relax.Var(n, t) for n, t in zip(names, types, strict=True))
    with bb.function("main", [x, indptr, w, scale], attrs={"num_input": 2}):
        with bb.dataflow():
            call = tvm.relax.call_tir(kernel, [x, w, scale, indptr], tvm.relax.TensorType([chosen, out], "float32"))
            result = bb.emit_output(call)
        bb.emit_func_output(result)
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, (experts, out, depth // 8), dtype="uint64").astype("uint32")
    given = [rng.standard_normal((1, depth)).astype("float32"), np.array([[2, 0]], "int32"), words]
    given.append(rng.random((experts, out, depth // 32)).astype("float32"))
    sharded = assert_equivalent(bb.finalize(), workers, specs, run=lambda w: w["main"](*given))
    assert sharded.plan.notes == []


def test_a_layer_for_one_token_has_one_sum():
    """With threads for the experts chosen, as MLC-LLM writes it."""
    mod = expert_layer((gemv(4, 192, 64, 2), gemv(4, 64, 96, 2)), 1, name="moe_dequantize_gemv")
    plan = spmd.plan(mod, 2, profile=SLOW)
    assert plan.notes == []
