"""Four-bit weights whose groups and heads do not divide: whole ones are padded, and a layer keeps the two sums of the float model."""

from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from tvm.runtime import ShapeTuple

import spmd
from spmd import Mesh
from spmd.testing import difference
from tests.models.dispatch import dispatch_kv_cache
from tests.models.llama_model import LlamaConfig
from tests.models.mlc_llama import mlc_llama
from tests.models.test_dispatch import random_weights

FFN_1408 = LlamaConfig(hidden=2048, intermediate=1408, heads=16, kv_heads=16, layers=1, vocab=32000)
FFN_10944 = LlamaConfig(hidden=2048, intermediate=10944, heads=16, kv_heads=16, layers=1, vocab=32000)
HEADS_OF_80 = LlamaConfig(hidden=2560, intermediate=10240, heads=32, kv_heads=32, layers=1, vocab=32000)
TEN_OF_80 = LlamaConfig(hidden=800, intermediate=3200, heads=10, kv_heads=10, layers=1, vocab=32000)
FOUR_KV = LlamaConfig(hidden=2048, intermediate=5632, heads=32, kv_heads=4, layers=1, vocab=32000)


SLOW_MEMORY = spmd.Profile("slow memory", flops=1e14, memory_bandwidth=2e11, link_bandwidth=3e11, link_latency=5e-6)
"""One layer of a small model is worth splitting."""


def late(latency):
    """Collectives are worth so much memory traffic that a layer has no more than two of them."""
    return spmd.Profile("late links", flops=1e9, memory_bandwidth=1e8, link_bandwidth=1e12, link_latency=latency)


@pytest.mark.parametrize(
    ("config", "workers"),
    [(FFN_1408, 3), (FFN_1408, 8), (FFN_10944, 4), (FFN_10944, 8), (HEADS_OF_80, 3), (FOUR_KV, 3)],
)
def test_two_sums_a_layer(config, workers):
    plan = spmd.plan(mlc_llama(config, "q4f16_1", functions=["decode"])[0], workers, profile=SLOW_MEMORY)
    assert Counter(c.kind for c in plan.collectives) == {"all_reduce": 2}
    mesh = Mesh(tp=workers)
    heads = -(-config.kv_heads // workers) / config.kv_heads
    for name, sharding in plan.params.items():
        if "q_weight" not in name or "layers" not in name:
            continue
        split = next(d for d in sharding.dims if d is not None)
        part = split.local_size(mesh) / split.size
        assert 1 / workers <= part <= max(heads, 1.2 / workers) * 1.25, (name, str(sharding))


def test_ten_heads_of_80_go_in_pairs():
    """Two heads are five groups of 32; the gate and the other half of a fused weight are split alike."""
    plan = spmd.plan(mlc_llama(TEN_OF_80, "q4f16_1", functions=["decode"])[0], 2, profile=late(2e-2))
    found = {name.removeprefix("model_layers_0_"): str(s) for name, s in plan.params.items()}
    assert found["self_attn_o_proj_q_weight"] == "[-, tp:100~20]" and found["self_attn_o_proj_q_scale"] == "[-, tp:25~5]"
    assert found["self_attn_qkv_proj_q_weight"] == "[tp:800~160|800~160|800~160, -]"


TEN = LlamaConfig(hidden=800, intermediate=3168, heads=10, kv_heads=10, layers=1, vocab=100)


@lru_cache
def logits(workers):
    """After each of two tokens: ten heads of 80 (25 groups), and 99 groups between the products of the feed-forward."""
    mod, named = mlc_llama(TEN, "q4f16_1", functions=["embed", "decode", "create_paged_kv_cache"])
    arrays = random_weights(named)
    program = dispatch_kv_cache(mod) if workers == 1 else spmd.shard(dispatch_kv_cache(mod), workers, profile=late(2e-2))
    if workers > 1:
        padded = [n for n, s in program.plan.params.items() if s.is_padded(program.mesh)]
        assert any("o_proj" in n for n in padded) and any("down_proj" in n for n in padded), padded
    with spmd.workers(program) as w:
        params = w.load([arrays[name] for name, _ in named], "decode")
        cache = w["create_paged_kv_cache"](*(ShapeTuple([size]) for size in (1, 64, 32, 16, 0)))
        w.call_packed("vm.builtin.kv_state_add_sequence", cache, 0)
        found = []
        for function, ids in (("decode", [3]), ("decode", [65])):
            embed = w["embed"](np.array(ids, "int32"), *params)[None]
            w.call_packed("vm.builtin.kv_state_begin_forward", cache, ShapeTuple([0]), ShapeTuple([len(ids)]))
            result, cache = w[function](embed, cache, *params)
            w.call_packed("vm.builtin.kv_state_end_forward", cache)
            found.append(result.reshape(-1))
    return np.stack(found)


@pytest.mark.slow
def test_padded_groups_say_the_same():
    expected, found = logits(1), logits(2)
    assert expected.std() > 0.1
    assert not (wrong := difference(expected, found, 2e-2)), wrong
