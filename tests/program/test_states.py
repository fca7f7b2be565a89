"""KV caches at operators that know nothing of heads, at those that may look inside, and where all heads share a latent vector."""

from dataclasses import replace

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import ShardingError

HEAVY = spmd.Profile("slow compute", flops=1e9, memory_bandwidth=1e9, link_bandwidth=1e12, link_latency=1e-9)


@I.ir_module
class Positions:
    """What MLC-LLM's GPT-2 asks of a cache: positions for an embedding, tokens taken back after it."""

    @R.function(pure=False)
    def decode(x: R.Tensor((1, 24, 32), "float16"), cache: R.Any, w: R.Tensor((256, 256), "float16")):
        R.func_attr({"num_input": 2})
        where = R.call_pure_packed("vm.builtin.attention_kv_cache_get_query_positions", cache, ty_args=(R.Tensor((1,), dtype="int32"),))
        a = R.call_dps_packed(
            "vm.builtin.attention_kv_cache_attention_with_fused_qkv",
            (cache, 0, T.float64(0.25), x),
            out_ty=R.Tensor((1, 8, 32), dtype="float16"),
        )
        y = R.matmul(R.reshape(a, R.shape([1, 256])), w)
        _ = R.call_packed("vm.builtin.kv_state_popn", cache, 0, 1, ty_args=(R.Any,))
        return y, where, cache


@I.ir_module
class Looking:
    """A function that nobody knows takes the cache."""

    @R.function
    def decode(x: R.Tensor((1, 24, 32), "float16"), cache: R.Any, w: R.Tensor((256, 256), "float16")):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            a = R.call_dps_packed(
                "vm.builtin.attention_kv_cache_attention_with_fused_qkv",
                (cache, 0, T.float64(0.25), x),
                out_ty=R.Tensor((1, 8, 32), dtype="float16"),
            )
            f = R.reshape(a, R.shape([1, 256]))
            y = R.matmul(f, w)
            keys = R.call_pure_packed("my.keys_of", cache, ty_args=(R.Tensor((8, 32), dtype="float16"),))
            R.output(y, keys)
        return y, keys


@I.ir_module
class Latent:
    """Both kinds of attention of MLC-LLM's DeepSeek-V2, merged, and the cache for them."""

    @R.function
    def create(batch: R.Shape(["b"]), total: R.Shape(["t"])) -> R.Any:
        b, t = T.int64(), T.int64()
        R.func_attr({"num_input": 2})
        with R.dataflow():
            cache: R.Any = R.call_pure_packed(
                "mlc.create_paged_kv_cache_generic",
                R.str("mla"),
                R.shape([b, t, 64, 16, 0]),
                R.shape([0, 1]),
                *(1, 8, 1, 96, 64, 48, 32, 0, 1, 10000),
                R.str("{}"),
                0,
                96,
                0,
                R.dtype("float16"),
                ty_args=(R.Any,),
            )
            R.output(cache)
        return cache

    @R.function
    def extend(
        x: R.Tensor((4, 256), "float16"),
        latent: R.Tensor((4, 96), "float16"),
        cache: R.Any,
        wq: R.Tensor((256, 384), "float16"),
        wk: R.Tensor((256, 384), "float16"),
        wv: R.Tensor((256, 256), "float16"),
        wl: R.Tensor((256, 768), "float16"),
        up: R.Tensor((8, 64, 32), "float16"),
        wo: R.Tensor((256, 256), "float16"),
    ):
        R.func_attr({"num_input": 3})
        with R.dataflow():
            appended: R.Any = R.call_pure_packed("vm.builtin.attention_kv_cache_append_mla_kv", cache, 0, latent, ty_args=(R.Any,))
            q = R.reshape(R.matmul(x, wq), R.shape([4, 8, 48]))
            k = R.reshape(R.matmul(x, wk), R.shape([4, 8, 48]))
            v = R.reshape(R.matmul(x, wv), R.shape([4, 8, 32]))
            own = R.call_dps_packed(
                "vm.builtin.attention_kv_cache_self_attention",
                (appended, 0, T.float64(0.1), q, k, v),
                out_ty=[R.Tensor((4, 8, 32), "float16"), R.Tensor((4, 8), "float32")],
            )
            ql = R.reshape(R.matmul(x, wl), R.shape([4, 8, 96]))
            past = R.call_dps_packed(
                "vm.builtin.attention_kv_cache_cross_attention",
                (appended, 0, T.float64(0.1), ql),
                out_ty=[R.Tensor((4, 8, 64), "float16"), R.Tensor((4, 8), "float32")],
            )
            wide = R.matmul(R.permute_dims(past[0], axes=[1, 0, 2]), up)
            other = R.permute_dims(wide, axes=[1, 0, 2])
            both = R.call_pure_packed(
                "vm.builtin.attention_kv_cache_merge_attn_output_inplace",
                *(appended, own[0], own[1], other, past[1]),
                ty_args=(R.Tuple(R.Tensor((4, 8, 32), "float16"), R.Tensor((4, 8), "float32")),),
            )
            y = R.matmul(R.reshape(both[0], R.shape([4, 256])), wo)
            R.output(y, appended)
        return y, appended


def of(plan, function, op):
    return next(c for c in plan.choices[function] if c.op.endswith(op))


def test_what_knows_nothing_of_heads_takes_any_cache():
    sharded = spmd.shard(Positions, 2, profile=replace(HEAVY, memory_bandwidth=1e12))  # which makes cutting x cheap
    plan = sharded.plan
    assert plan.notes == [] and str(plan.params["w"]) == "[tp, -]"
    assert str(of(plan, "decode", "query_positions").inputs[0]) == "[tp]"
    assert [c.kind for c in plan.collectives] == ["all_reduce"]


def test_what_may_look_inside_takes_a_whole_cache():
    plan = spmd.plan(Looking, 2, profile=HEAVY)
    assert str(of(plan, "decode", "with_fused_qkv").inputs[0]) == "[-]"
    assert any(note.startswith("my.keys_of is replicated, as my.keys_of has no rule") for note in plan.notes), plan.notes


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_latent_vectors_are_whole_and_heads_are_split(workers):
    sharded = spmd.shard(Latent, workers, profile=HEAVY)
    plan = sharded.plan
    assert plan.notes == []
    assert [c.kind for c in plan.collectives if c.function == "extend"][-1:] == ["all_reduce"]
    call = sharded.mod["create"].body.blocks[0].bindings[0].value
    assert [int(call.args[i].value) for i in (5, 6)] == [8 // workers, 1]
    assert all(not plan.params[name].is_replicated for name in ("wq", "wk", "wv", "wl", "up", "wo"))


def test_latent_attention_split_by_heads_is_proven():
    """And a program that scales what it compares otherwise, or keeps another vector, is not that of the module."""
    assert spmd.verify(Latent, spmd.shard(Latent, 2, profile=HEAVY)).undecided == ()
    text = Latent.script()
    for change in (("0.10000000000000001), q", "0.25), q"), ("latent, ty_args", "R.add(latent, latent), ty_args")):
        other = tvm.script.from_source(text.replace(*change))
        assert other.script() != text, change
        with pytest.raises(ShardingError, match="extend"):
            spmd.verify(Latent, spmd.shard(other, 2, profile=HEAVY))
