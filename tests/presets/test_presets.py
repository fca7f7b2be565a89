"""Ready-made specs: what they ask for is obeyed, changes no number, and brings the collectives that it is known for."""

from collections import Counter
from dataclasses import replace

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, ShardingError
from spmd.costs.profile import profile_of
from spmd.presets import data_parallel, fsdp, megatron, sequence_parallel
from spmd.presets.reading import Reading
from spmd.testing import assert_equivalent
from tests.models.mlc_llama import TINY, hand_written, mlc_llama
from tests.presets.llama import BATCH, HIDDEN, KV, SEQ, VOCAB, WIDE, Q, llama
from tests.programs import Mlp, Two

PLANS = {
    "megatron": (Mesh(tp=2), megatron),
    "megatron, more workers than KV heads": (Mesh(tp=4), megatron),
    "sequence parallel": (Mesh(tp=2), sequence_parallel),
    "data parallel": (Mesh(dp=2), data_parallel),
    "fully sharded": (Mesh(dp=2), fsdp),
    "data parallel and megatron": (Mesh(dp=2, tp=2), lambda mod: data_parallel(mod) | megatron(mod)),
    "fully sharded and megatron": (Mesh(dp=2, tp=2), lambda mod: fsdp(mod, "dp", megatron(mod))),
}


def kept(plan):
    """The sharding of everything, by the names of specs."""
    ends = {f"{name.partition('[')[0]}.return{''.join(name.partition('[')[1:])}": s for name, s in plan.outputs.items()}
    return {**plan.params, **plan.values, **plan.inputs, **ends}


@pytest.mark.parametrize("fused", [False, True], ids=["one by one", "fused"])
@pytest.mark.parametrize("name", PLANS)
def test_what_a_plan_asks_for_is_obeyed_and_changes_no_number(name, fused):
    mesh, plan_of = PLANS[name]
    mod, _ = llama("forward", fused=fused)
    specs = plan_of(mod)
    sharded = assert_equivalent(mod, mesh, specs)
    reading, found = Reading(mod), kept(sharded.plan)
    for key, spec in specs.items():
        shape = (reading.names.get(key) or reading.results[key]).shape
        assert found[key] == spec.sharding(shape, mesh, key), key


def sent(mod, mesh, specs):
    return Counter((c.kind, c.bytes) for c in spmd.plan(mod, mesh, specs).collectives)


STREAM = BATCH * SEQ * HIDDEN * 4
"""Bytes of what goes from block to block."""


@pytest.mark.parametrize("fused", [False, True], ids=["one by one", "fused"])
def test_megatron_has_two_all_reduces_a_layer(fused):
    mod, _ = llama("block", layers=3, fused=fused)
    assert sent(mod, 2, megatron(mod)) == {("all_reduce", STREAM): 6}


def test_sequence_parallel_scatters_and_gathers_instead():
    mod, _ = llama("block", layers=3)
    # The last gather is that of the result.
    assert sent(mod, 2, sequence_parallel(mod)) == {("reduce_scatter", STREAM): 6, ("all_gather", STREAM // 2): 7}


def test_data_parallel_sends_nothing():
    mod, _ = llama("forward")
    assert sent(mod, Mesh(dp=4), data_parallel(mod)) == {}


def test_fully_sharded_weights_are_gathered_where_the_batch_is_large():
    mod, _ = llama("block", batch=256)
    plan = spmd.plan(mod, Mesh(dp=2), fsdp(mod), profile=replace(profile_of("generic"), link_latency=0.0))
    weights = [name for name in plan.params if name.startswith("layers")]
    assert [c.kind for c in plan.collectives] == ["all_gather"] * len(weights)
    gathered = {c.value for c in plan.collectives}
    turned = [value for value in gathered if value.startswith("permute_dims")]  # a weight may as well be gathered as it is multiplied by
    assert gathered - set(turned) <= set(weights) and len(gathered) == len(weights) and len(turned) <= 1


def test_one_axis_of_two_each():
    mod, _ = llama("block")
    plan = spmd.plan(mod, Mesh(dp=2, tp=2), data_parallel(mod) | megatron(mod))
    assert [(c.kind, c.axis, c.bytes) for c in plan.collectives] == [("all_reduce", "tp", STREAM // 2)] * 2


def test_megatron_names_the_dimension_by_what_products_do():
    mod, names = llama("forward")
    specs = megatron(mod)
    layer = "layers.0."
    assert {name.removeprefix(layer): spec for name, spec in specs.items()} == {
        "embed_tokens.weight": P("tp", None),
        "self_attn.q_proj.weight": P("tp", None),
        "self_attn.q_proj.bias": P("tp"),
        "self_attn.k_proj.weight": P("tp", None),
        "self_attn.v_proj.weight": P("tp", None),
        "self_attn.o_proj.weight": P(None, "tp"),
        "self_attn.o_proj.bias": P(None),
        "mlp.gate_proj.weight": P("tp", None),
        "mlp.up_proj.weight": P("tp", None),
        "mlp.down_proj.weight": P(None, "tp"),
        "lm_head.weight": P("tp", None),
    }
    norms = {"layers.0.input_layernorm.weight", "layers.0.post_attention_layernorm.weight", "norm.weight"}
    assert {n for n in names if n not in specs} == norms
    assert megatron(Mlp, "x") == {"w1": P(None, "x"), "w2": P("x", None)}, "weights that stand the other way round"


def test_fused_weights_are_split_by_segments():
    specs = megatron(llama("block", fused=True)[0])
    assert specs["layers.0.self_attn.qkv_proj.weight"] == P(("tp", Q, KV, KV), None)
    assert specs["layers.0.self_attn.qkv_proj.bias"] == P(("tp", Q, KV, KV))
    assert specs["layers.0.mlp.gate_up_proj.weight"] == P(("tp", WIDE, WIDE), None)


@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_megatron_is_what_mlc_writes_by_hand(quantization):
    mod, _ = mlc_llama(TINY, quantization, functions=["embed", "batch_decode"])
    specs = megatron(mod)
    ours = {name: spec for name, spec in specs.items() if "embed" not in name and "lm_head" not in name}
    theirs = {}
    for name, (dim, segments) in hand_written(TINY, 2, quantization).items():
        theirs[name.replace(".", "_")] = P(*[(("tp", *segments) if segments else "tp") if i == dim else None for i in range(2)])
    assert ours == theirs


def test_fully_sharded_splits_the_largest_dimension_that_is_left():
    specs = fsdp(Mlp, "dp")
    assert specs == {"main.x": P("dp", None), "main.return": P("dp", None), "w1": P(None, "dp"), "w2": P("dp", None)}
    assert fsdp(Mlp, "dp", megatron(Mlp))["w1"] == P("dp", "tp")
    assert fsdp(Mlp, "dp", {"w1": P("tp", None, gather=False)})["w1"] == P("tp", "dp", gather=False)


SYMBOLIC = {
    "data parallel": ({"batch": "batch"}, data_parallel, Mesh(dp=2), {}),
    "sequence parallel": ({"seq": "seq"}, sequence_parallel, Mesh(tp=2), {"all_gather": 3, "reduce_scatter": 2}),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_a_symbolic_size_that_is_divisible(name):
    sizes, plan_of, mesh, kinds = SYMBOLIC[name]
    mod, _ = llama("block", **sizes)
    (symbol,) = sizes
    plan = spmd.plan(mod, mesh, plan_of(mod), divisible={symbol: 2}, sizes={symbol: 8})
    assert Counter(c.kind for c in plan.collectives) == kinds


def test_a_batch_that_nobody_called_divisible():
    mod, _ = llama("block", batch="batch")
    plan = spmd.plan(mod, Mesh(dp=2), data_parallel(mod), sizes={"batch": 9})
    assert not plan.collectives
    assert {str(sharding) for sharding in plan.inputs.values()} == {"[dp:~1, -, -]"}


def test_there_must_be_a_batch():
    with pytest.raises(
        ShardingError, match=r"plan over 'dp': no function takes a batch of more than one \(inputs: forward\.ids\)\. Write specs"
    ):
        data_parallel(llama("forward", batch=1)[0])


def test_there_must_be_a_sequence():
    with pytest.raises(ShardingError, match=r"sequence_parallel: no norm has a sequence of more than one\. Write specs"):
        sequence_parallel(llama("block", seq=1)[0])
    with pytest.raises(ShardingError, match=r"sequence_parallel: the module has no relax\.nn\.rms_norm and no relax\.nn\.layer_norm"):
        sequence_parallel(Mlp)


def test_weights_must_have_names_of_layers():
    with pytest.raises(
        ShardingError, match=r"megatron: no weight has the name of a layer that it splits \(the weights are 'w', 'b'\)\. Name"
    ):
        megatron(Two)
    assert megatron(Two, columns=["w"]) == {"w": P(None, "tp")}


def test_weights_that_are_left_are_told(caplog):
    megatron(Mlp, columns=["w1"], rows=["w3"])
    assert caplog.messages == [
        "megatron leaves 'w2', whose names are those of no layers that it splits, to the planner; columns= and rows= name more"
    ]
    caplog.clear()
    fsdp(Mlp, "dp", {"w2": P("tp", "sp")})
    assert caplog.messages == ["fsdp leaves 'w2', of which no dimension is left to split over 'dp', as they are"]


def test_a_table_is_read_off_what_takes_from_it():
    reading = Reading(llama("forward")[0])
    assert [name for name, weight in reading.weights.items() if reading.is_table(weight)] == ["embed_tokens.weight"]
    assert reading.weights["embed_tokens.weight"].shape[0] == VOCAB


@I.ir_module
class Unsaid:
    """The same as `Mlp`, and nothing says which of its parameters are weights."""

    @R.function
    def main(x: R.Tensor(("n", 16), "float32"), fc1: R.Tensor((16, 32), "float32"), fc2: R.Tensor((32, 16), "float32")):
        with R.dataflow():
            up = R.matmul(x, fc1)
            active = R.nn.relu(up)
            down = R.matmul(active, fc2)
            R.output(down)
        return down


@pytest.mark.parametrize(
    ("specs", "weights"),
    [
        (megatron(Unsaid, "dp"), (P(None, "dp"), P("dp", None))),
        (data_parallel(Unsaid), (P(others=None), P(others=None))),
        (fsdp(Unsaid), (P(None, "dp"), P("dp", None))),
    ],
    ids=["megatron", "data_parallel", "fsdp"],
)
def test_weights_are_found_without_num_input(specs, weights):
    assert (specs["main.fc1"], specs["main.fc2"]) == weights
    assert specs.get("main.x", P("dp", None)) == P("dp", None)
    assert_equivalent(Unsaid, Mesh(dp=2), specs)
