"""What the planner decides with no annotation: Megatron's plan for Llama-2-70B, and no more collectives than MLC-LLM places by hand."""

from dataclasses import replace

import pytest

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.model import build_module
from spmd import P
from tests.models.mlc_llama import FUNCTIONS, LLAMA_2_7B, LLAMA_2_70B, hand_written, hand_written_collectives, mlc_llama
from tests.programs import Mlp, Two

LLAMA = LlamaConfig.preset("llama-2-70b")
METHODS = ("embed", "prefill", "decode", "batch_prefill", "batch_decode", "create_paged_kv_cache")
MEGATRON = {
    "self_attn.qkv_proj.weight": "[tp:8192|1024|1024, -]",
    "self_attn.o_proj.weight": "[-, tp]",
    "mlp.gate_up_proj.weight": "[tp:28672|28672, -]",
    "mlp.down_proj.weight": "[-, tp]",
}


def llama_plan(layers, mesh, methods=METHODS):
    return spmd.plan(build_module(replace(LLAMA, num_hidden_layers=layers), methods=methods)[0], mesh)


def check_megatron(plan, layers):
    for i in range(layers):
        for name, sharding in MEGATRON.items():
            assert str(plan.params[f"model.layers.{i}.{name}"]) == sharding
    for function in ("prefill", "decode"):
        moved = [(c.kind, c.bytes) for c in plan.collectives if c.function == function]
        tokens = 64 if function == "prefill" else 1
        sums = [("all_reduce", tokens * LLAMA.hidden_size * 4)] * (2 * layers)
        assert moved[: 2 * layers] == sums
        # after the layers: the logits
        assert [kind for kind, _ in moved[2 * layers :]] == ["all_gather"]
        assert moved[-1][1] * plan.mesh.size == LLAMA.vocab_size * 4


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_llama_2_70b_gets_megatrons_plan(workers):
    plan = llama_plan(2, workers)
    check_megatron(plan, 2)
    assert plan.notes == [] and plan.width <= 3
    mesh = plan.mesh
    for name, sharding in plan.params.items():
        if "_proj" in name:
            whole = sum(d.size for d in sharding.dims if d)
            assert sum(d.local_size(mesh) for d in sharding.dims if d) * workers == whole, f"{name} is not split {workers} ways"


def test_all_eighty_layers():
    plan = llama_plan(80, 2)
    check_megatron(plan, 80)
    assert plan.width <= 3 and plan.notes == []


def test_every_layer_is_sharded_as_the_first():
    plan = llama_plan(4, 4)
    layers = [{n.split(".", 3)[3]: str(s) for n, s in plan.params.items() if n.startswith(f"model.layers.{i}.")} for i in range(4)]
    assert layers[0] and all(layer == layers[0] for layer in layers)


def test_nothing_is_to_be_said_of_one_worker():
    """That nothing is split is worth a note where something could be."""
    assert spmd.plan(Mlp, 1).notes == []
    assert "nothing is split" in "".join(spmd.plan(Mlp, 2).notes)


def last_product(plan, function):
    """The name of the last matmul of a function, which is lm_head's where there is one."""
    return [c.name for c in plan.choices[function] if c.op == "relax.matmul"][-1:]


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("config", [LLAMA_2_7B, LLAMA_2_70B], ids=["7b", "70b"])
@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_no_more_collectives_in_a_layer_than_by_hand(quantization, config, workers):
    """All functions of MLC-LLM's module, weights packed, vocabulary symbolic."""
    config = replace(config, layers=2)
    plan = spmd.plan(mlc_llama(config, quantization)[0], workers)
    assert list(plan.functions) == sorted(FUNCTIONS)
    assert plan.notes == []
    for function in FUNCTIONS:
        by_hand = [kind for kind, _ in hand_written_collectives(config, function) if kind == "all_reduce"]
        ours = [c for c in plan.collectives if c.function == function]
        in_layers, after = ours[: len(by_hand)], ours[len(by_hand) :]
        assert [c.kind for c in in_layers] == by_hand
        # The rows of lm_head are of a symbolic number, so its columns are split, and the logits are a sum.
        assert [(c.kind, c.value in last_product(plan, function)) for c in after] in ([], [("all_reduce", True)])


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_weights_are_cut_where_the_hand_written_plan_cuts_them(quantization, workers):
    config = replace(LLAMA_2_70B, layers=1)
    plan = spmd.plan(mlc_llama(config, quantization)[0], workers)
    expected = hand_written(config, workers, quantization)
    found = {name.replace("_", "."): s for name, s in plan.params.items()}
    for name, shard in expected.items():
        sharding = plan.params.get(name) or found[name.replace("_", ".")]
        split = sharding.dims[shard.dim]
        assert split is not None and sum(d is not None for d in sharding.dims) == 1, name
        if shard.segments:
            assert tuple(s.size for s in split.segments) == shard.segments, name
        else:
            assert len(split.segments) == 1, name


def test_specs_are_hard_constraints_on_the_same_problem():
    """Asked for the one weight, the planner finds the other half of the pair itself."""
    plan = spmd.plan(Mlp, 2, {"w1": P(None, "tp")})
    assert str(plan.params["w2"]) == "[tp, -]"
    assert [c.kind for c in plan.collectives] == ["all_reduce"]
    plan = spmd.plan(Mlp, 2, {"w2": P("tp", None)})
    assert str(plan.params["w1"]) == "[-, tp]"


def test_a_spec_costs_what_it_costs():
    free, forced = spmd.plan(Mlp, 2), spmd.plan(Mlp, 2, {"main.active": P(None, None), "w1": P("tp", None)})
    assert forced.predicted["main"] > free.predicted["main"]


def test_a_weight_of_two_functions_has_one_sharding():
    plan = spmd.plan(Two, 2, {"w": P(None, "tp")})
    assert str(plan.params["w"]) == "[-, tp]"
    assert plan.functions["first"].params[1].sharding == plan.functions["second"].params[1].sharding == plan.params["w"]


def test_a_slow_link_moves_nothing():
    slow = spmd.Profile("slow link", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e3, link_latency=1.0)
    assert spmd.plan(Mlp, 2, profile=slow).collectives == []


def test_predicted_time_falls_with_workers():
    times = [llama_plan(1, n).predicted["decode"] for n in (1, 2, 4)]
    assert times[0] > 1.6 * times[1] > 1.6 * 1.6 * times[2]


def test_collectives_say_who_makes_the_value_and_who_wants_it():
    plan = spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)})
    assert [c.reason for c in plan.collectives] == ["relax.matmul makes 'down' as [-, -] sum@tp, it is kept as [-, -]"]
    plan = spmd.plan(Mlp, 2, {"main.up": P(None, "tp"), "main.active": P(None, None)})
    (gather,) = [c for c in plan.collectives if c.kind == "all_gather"]
    assert "'up'" in gather.reason or "'active'" in gather.reason
