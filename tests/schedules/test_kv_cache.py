"""Paged KV caches that get their kernels where a module is compiled, and latent attention on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache
from tvm.runtime import ShapeTuple
from tvm.script import relax as R
from tvm.target import Target

import spmd
from spmd.schedules.kv_cache import CREATE, CreateCaches
from tests.models.dispatch import dispatch_kv_cache
from tests.models.mlc_llama import TINY, mlc_llama

HEADS, TURNING, LATENT, VALUE, SCALE = 3, 4, 16, 8, 0.3
SIZES = (2, 64, 32, 16, 0)
FAST = {"kind": "llvm", "opt-level": 0}


def generic(sizes: list[tirx.Var], arguments: int = 18) -> relax.Call:
    """A call for one layer of latent attention."""
    counted = (1, HEADS, 1, LATENT + TURNING, LATENT, VALUE + TURNING, VALUE, 0, 1, 10000)
    rest = [tvm.ir.StringImm("{}"), *map(relax.prim_value, (0, LATENT + TURNING, 0)), R.dtype("float32")]
    args = [tvm.ir.StringImm("mla"), relax.ShapeExpr(sizes), relax.ShapeExpr([0, 1]), *map(relax.prim_value, counted), *rest]
    return relax.call_pure_packed("mlc.create_paged_kv_cache_generic", *args[:arguments], ty_args=relax.AnyType())


class Latent(nn.Module):
    """The three calls of latent attention, and the cache for them."""

    def own(self, q: nn.Tensor, k: nn.Tensor, v: nn.Tensor, kept: nn.Tensor, cache: PagedKVCache):
        cache = cache.append_mla_kv(0, kept)
        return (*cache.self_attention(0, q, k, v, SCALE), cache)

    def past(self, q: nn.Tensor, cache: PagedKVCache):
        return (*cache.cross_attention(0, q, LATENT, SCALE), cache)

    def step(self, kept: nn.Tensor, q: nn.Tensor, cache: PagedKVCache):
        return self.past(q, cache.append_mla_kv(0, kept))

    def create(self, a: tirx.Var, b: tirx.Var, c: tirx.Var, d: tirx.Var, e: tirx.Var):
        return PagedKVCache(_expr=generic([a, b, c, d, e]), _name="cache")


def latent() -> tvm.IRModule:
    mode, cache = {"param_mode": "none", "effect_mode": "none"}, nn.spec.Object(object_type=PagedKVCache)

    def tensor(*shape: int | str) -> nn.spec.Tensor:
        return nn.spec.Tensor(list(shape), "float32")

    q, kept = tensor(1, "n", HEADS, VALUE + TURNING), tensor(1, "n", 1, LATENT + TURNING)
    wide, one = tensor(1, "n", HEADS, LATENT + TURNING), tensor("b", 1, HEADS, LATENT + TURNING)
    specs = {
        "own": {"q": q, "k": q, "v": tensor(1, "n", HEADS, VALUE), "kept": kept, "cache": cache, "$": mode},
        "past": {"q": wide, "cache": cache, "$": mode},
        "step": {"kept": tensor("b", 1, 1, LATENT + TURNING), "q": one, "cache": cache, "$": mode},
        "create": {**dict.fromkeys("abcde", int), "$": mode},
    }
    return Latent().export_tvm(specs)[0]


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """In float64: q (n, h, d), k (m, h, d), v (m, h, e); logarithms to base 2."""
    scores = np.einsum("nhd,mhd->nhm", q.astype("float64"), k) * SCALE
    if causal:
        scores[np.triu(np.ones((len(q), len(k)), bool), 1)[:, None].repeat(q.shape[1], 1)] = -np.inf
    sums = np.log(np.exp(scores).sum(-1))
    return np.einsum("nhm,mhe->nhe", np.exp(scores - sums[..., None]), v), sums / np.log(2)


def test_latent_attention_on_a_cpu():
    """To tokens of the same call, to those before them, over the end of a page, and in a sequence that shares a page with another."""
    random = np.random.default_rng(0)
    kept, wide, q, v = (random.standard_normal((1, 24, *s)).astype("float32") for s in ((1, 20), (HEADS, 20), (HEADS, 12), (HEADS, VALUE)))
    with spmd.workers(latent(), target=FAST) as workers:
        cache = workers["create"](*(ShapeTuple([size]) for size in SIZES))

        def call(name: str, *arguments: object) -> None:
            workers.call_packed(f"vm.builtin.kv_state_{name}", cache, *arguments)

        def check(found: tuple[np.ndarray, ...], wanted: tuple[np.ndarray, np.ndarray]) -> None:
            for one, other in zip(found[:2], wanted, strict=True):
                np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-4, atol=1e-4)

        def whole(length: int) -> tuple[np.ndarray, np.ndarray]:
            keys = kept[0, :length].repeat(HEADS, 1)
            return keys, keys[..., :LATENT]

        call("add_sequence", 0)
        for start, stop in ((0, 7), (7, 18)):
            call("begin_forward", ShapeTuple([0]), ShapeTuple([stop - start]))
            part = slice(start, stop)
            found = workers["own"](q[:, part], q[:, part], v[:, part], kept[:, part], cache)
            check(found, attended(q[0, part], q[0, part], v[0, part], causal=True))
            if start:
                check(workers["past"](wide[:, part], cache), attended(wide[0, part], *whole(start), causal=False))
            call("end_forward")
        call("fork_sequence", 0, 1, 18)
        call("begin_forward", ShapeTuple([1, 0]), ShapeTuple([1, 1]))
        found = workers["step"](kept[:, 18:20].reshape(2, 1, 1, -1), wide[:, 18:20].reshape(2, 1, HEADS, -1), cache)
        call("end_forward")
        for i, token in enumerate((18, 19)):
            keys = np.concatenate([kept[0, :18], kept[0, token : token + 1]]).repeat(HEADS, 1)
            check([x[i] for x in found[:2]], attended(wide[0, token : token + 1], keys, keys[..., :LATENT], causal=False))


def test_kernels_are_those_of_tvm():
    given = mlc_llama(TINY, functions=["create_paged_kv_cache"])[0]
    with Target("llvm"):
        made = CreateCaches()(given)
    wanted = dispatch_kv_cache(given)

    def kernels(mod: tvm.IRModule) -> list[tirx.PrimFunc]:
        call = next(b.value for b in mod["create_paged_kv_cache"].body.blocks[0].bindings if CREATE in str(b.value))
        fields = [field for arg in call.args for field in (arg.fields if isinstance(arg, relax.Tuple) else [arg])]
        return [mod[field] for field in fields if isinstance(field, tvm.ir.GlobalVar)]

    found, expected = kernels(made), kernels(wanted)
    assert len(found) == len(expected) == 14
    for one, other in zip(found, expected, strict=True):
        tvm.ir.assert_structural_equal(one.without_attr("global_symbol"), other.without_attr("global_symbol"), map_free_vars=True)


def test_another_number_of_arguments_is_refused():
    sizes = [tirx.Var(name, "int64") for name in "abcde"]
    builder = relax.BlockBuilder()
    with builder.function("create", [relax.Var("sizes", relax.ShapeType(sizes))]):
        builder.emit_func_output(builder.emit(generic(sizes, 17)))
    with pytest.raises(Exception, match=r"the call of mlc\.create_paged_kv_cache_generic: it has 17 arguments, and in this TVM it has 18"):
        spmd.workers(builder.get())
