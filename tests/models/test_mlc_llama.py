from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax, tirx

from tests.models import group_quant
from tests.models.mlc_llama import (
    FORWARD,
    FUNCTIONS,
    HIDDEN,
    LLAMA_2_7B,
    LLAMA_2_70B,
    SIZES,
    TINY,
    Shard,
    hand_written,
    hand_written_collectives,
    mlc_llama,
)

QUANTIZATIONS = ("q0f16", "q4f16_1")


def relax_functions(mod: tvm.IRModule) -> dict[str, relax.Function]:
    return {var.name_hint: f for var, f in mod.functions_items() if isinstance(f, relax.Function)}


def kernels(mod: tvm.IRModule) -> list[str]:
    return sorted(var.name_hint for var, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_module_is_well_formed_and_says_nothing_of_parallelism(quantization, packed, tied):
    mod, _ = mlc_llama(replace(TINY, tied=tied), quantization, packed_params=packed)
    relax.analysis.well_formed(mod)
    assert set(relax_functions(mod)) == set(FUNCTIONS)
    assert "ccl" not in mod.script()


def test_num_input_counts_the_arguments_before_the_weights():
    mod, named = mlc_llama(TINY, "q4f16_1")
    for name, function in relax_functions(mod).items():
        inputs = function.attrs["num_input"]
        weights = function.params[inputs:]
        if name in ("batch_select_last_hidden_states", "create_paged_kv_cache"):
            assert not weights
        else:
            assert [var.name for var in weights] == ["packed_params"]
            assert len(weights[0].ty.fields) == len(named)
    assert [var.name for var in mod["batch_prefill"].params[:3]] == [
        "input_embeds",
        "logit_positions",
        "paged_kv_cache",
    ]
    plain, named = mlc_llama(TINY, packed_params=False)
    assert len(plain["decode"].params) == 2 + len(named)


@pytest.mark.parametrize(("quantization", "per_layer", "outside"), [("q0f16", 6, 3), ("q4f16_1", 10, 5)])
def test_weights_have_the_names_and_shapes_of_mlc(quantization, per_layer, outside):
    _, named = mlc_llama(LLAMA_2_70B, quantization, layers=1)
    shapes = {name: ([str(size) for size in weight.shape], weight.dtype) for name, weight in named}
    assert len(named) == per_layer + outside
    if quantization == "q0f16":
        assert shapes["model.embed_tokens.weight"] == (["vocab_size", "8192"], "float16")
        assert shapes["model.layers.0.self_attn.qkv_proj.weight"] == (["10240", "8192"], "float16")
    else:
        assert shapes["lm_head.q_weight"] == (["vocab_size", "1024"], "uint32")
        assert shapes["lm_head.q_scale"] == (["vocab_size", "256"], "float16")
        assert shapes["model.layers.0.mlp.down_proj.q_weight"] == (["8192", "3584"], "uint32")


def test_the_vocabulary_size_is_symbolic_until_asked_otherwise():
    logits = mlc_llama(TINY, functions=["decode"])[0]["decode"].ret_ty.fields[0]
    assert isinstance(logits.shape[2], tvm.ir.Var)
    assert logits.dtype == "float32"
    logits = mlc_llama(TINY, functions=["decode"], symbolic_vocab=False)[0]["decode"].ret_ty.fields[0]
    assert [int(size) for size in logits.shape] == [1, 1, TINY.vocab]


def test_kernels_are_shared_by_layers_and_functions():
    mod, _ = mlc_llama(TINY, "q4f16_1")
    assert kernels(mod) == ["dequantize", "dequantize1", "dequantize2", "dequantize3", "dequantize4", "index"]
    assert kernels(mlc_llama(TINY)[0]) == ["index"]


def test_the_cache_is_made_by_the_generic_call():
    mod, _ = mlc_llama(LLAMA_2_70B, functions=["create_paged_kv_cache"])
    call = mod["create_paged_kv_cache"].body.blocks[0].bindings[0].value
    name, attention, sizes, partition, *numbers = call.args
    assert (name.global_symbol, attention.value) == ("mlc.create_paged_kv_cache_generic", "mha")
    assert tuple(size.name for size in sizes.values) == SIZES
    assert [int(size) for size in partition.values] == [0, 80]
    assert [int(number) for number in numbers[:5]] == [80, 64, 8, 128, 128]


def test_a_module_survives_text_and_json():
    mod, _ = mlc_llama(TINY, "q4f16_1")
    tvm.ir.assert_structural_equal(mod, tvm.script.from_source(mod.script()))
    tvm.ir.assert_structural_equal(mod, tvm.ir.load_json(tvm.ir.save_json(mod)))


def test_softmax_is_there_on_request_and_other_names_are_refused():
    mod, _ = mlc_llama(TINY, functions=["softmax_with_temperature"])
    assert len(mod["softmax_with_temperature"].params) == 2
    with pytest.raises(ValueError, match=r"no functions \['main'\]; choose among \['embed', "):
        mlc_llama(TINY, functions=["main"])


@given(st.integers(1, 5), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_quantizing_loses_at_most_half_a_level(rows, columns, seed):
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float16)
    q_weight, q_scale = group_quant.quantize(weight)
    assert (q_weight.shape, q_scale.shape) == group_quant.storage_shapes(rows, columns)
    back = group_quant.dequantize(q_weight, q_scale, columns)
    bound = np.repeat(q_scale, group_quant.GROUP, axis=1)[:, :columns].astype(np.float32)
    assert np.all(np.abs(back.astype(np.float32) - weight) <= 0.51 * bound + 1e-3)
    again = group_quant.dequantize(*group_quant.quantize(back), columns)
    np.testing.assert_allclose(again, back, atol=2e-2)


def test_zero_weights_stay_zero():
    q_weight, q_scale = group_quant.quantize(np.zeros((1, 32), np.float16))
    assert not group_quant.dequantize(q_weight, q_scale, 32).any()


def test_compiled_embedding_and_logits_match_numpy():
    mod, named = mlc_llama(TINY, "q4f16_1", layers=0, functions=["embed", "get_logits"])
    rng = np.random.default_rng(0)
    weights = {}
    for layer in ("model.embed_tokens", "lm_head"):
        packed = group_quant.quantize(rng.standard_normal((TINY.vocab, TINY.hidden)).astype(np.float16))
        weights[f"{layer}.q_weight"], weights[f"{layer}.q_scale"] = packed
    weights["model.norm.weight"] = np.ones(TINY.hidden, np.float16)
    table, head = (
        group_quant.dequantize(weights[f"{layer}.q_weight"], weights[f"{layer}.q_scale"], TINY.hidden)
        for layer in ("model.embed_tokens", "lm_head")
    )
    vm = relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())
    packed = tuple(tvm.runtime.tensor(weights[name]) for name, _ in named)

    ids = np.array([0, 7, 99, 7], np.int32)
    states = vm["embed"](tvm.runtime.tensor(ids), packed).numpy()
    np.testing.assert_array_equal(states, table[ids])
    logits = vm["get_logits"](tvm.runtime.tensor(states), packed).numpy()
    np.testing.assert_allclose(logits, states.astype(np.float32) @ head.astype(np.float32).T, atol=0.1, rtol=0.02)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_eighty_layers_have_as_many_kernels_as_one(quantization):
    mod, named = mlc_llama(LLAMA_2_70B, quantization, functions=["embed", "batch_prefill", "batch_decode"])
    assert len(named) == {"q0f16": 483, "q4f16_1": 805}[quantization]
    assert len(kernels(mod)) == {"q0f16": 0, "q4f16_1": 5}[quantization]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("config", [TINY, LLAMA_2_7B, LLAMA_2_70B])
def test_the_hand_written_plan_cuts_weights_that_exist(config, quantization):
    _, named = mlc_llama(config, quantization, functions=["embed"])
    shapes = {name: weight.shape for name, weight in named}
    for n in (2, 4):
        plan = hand_written(config, n, quantization)
        for name, (dim, segments) in plan.items():
            assert sum(segments or [shapes[name][dim]]) == shapes[name][dim]
            assert all(size % n == 0 for size in segments or [shapes[name][dim]])
    kept = {name.split(".")[-2] for name in shapes if name not in plan}
    assert kept == {"embed_tokens", "input_layernorm", "post_attention_layernorm", "norm", "lm_head"}


def test_the_hand_written_plan_of_llama_2_70b():
    plan = hand_written(LLAMA_2_70B, 2)
    assert len(plan) == 4 * 80
    assert plan["model.layers.79.self_attn.qkv_proj.weight"] == Shard(0, (8192, 1024, 1024))
    assert plan["model.layers.79.mlp.down_proj.weight"] == Shard(1)
    for function in (*FORWARD, *HIDDEN):
        kinds = [kind for kind, _ in hand_written_collectives(LLAMA_2_70B, function)]
        assert kinds.count("all_reduce") == 160


def test_the_hand_written_plan_refuses_what_mlc_refuses():
    with pytest.raises(ValueError, match="KV heads 4 over 8 devices"):
        hand_written(TINY, 8)
    with pytest.raises(ValueError, match="3 groups of 96 values over 2 devices"):
        hand_written(replace(TINY, intermediate=96), 2, "q4f16_1")
