"""Plans as styles of transformers: round trips, and what is said of plans that no styles say. None of it needs transformers."""

import pytest
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op, spec

import spmd
from spmd import Mesh, P
from spmd.annotate.importers import from_huggingface, to_huggingface
from spmd.presets import fsdp, megatron, sequence_parallel
from tests.presets.llama import llama

BUSY = spmd.Profile("busy", flops=1e7, memory_bandwidth=1e8, link_bandwidth=1e9, link_latency=1e-6)
PAIRS = {
    "layers.*.self_attn.q_proj": "colwise",
    "layers.*.self_attn.k_proj": "colwise",
    "layers.*.self_attn.v_proj": "colwise",
    "layers.*.self_attn.o_proj": "rowwise",
    "layers.*.mlp.gate_proj": "colwise",
    "layers.*.mlp.up_proj": "colwise",
    "layers.*.mlp.down_proj": "rowwise",
}
ENDS = {"embed_tokens": "embedding_rowwise", "lm_head": "colwise_gather_output"}


def shapes(plan):
    return {name: info.shape for name, info in plan.tensors.items() if name in plan.params}


def test_a_plan_goes_out_and_comes_back():
    mod, _ = llama("forward", layers=2)
    plan = spmd.plan(mod, 2, megatron(mod))
    found = to_huggingface(plan)
    assert found.styles == PAIRS | ENDS
    assert found.left == {"embed_tokens": "embedding_rowwise: here it is put together before it is used"}
    again = from_huggingface(found.styles, shapes(plan))
    assert not again.left
    assert spmd.plan(mod, 2, again.specs).params == plan.params
    assert to_huggingface(spmd.plan(mod, 2, from_huggingface(PAIRS, shapes(plan)).specs)).styles.items() >= PAIRS.items()


def test_a_sum_that_is_scattered_is_a_sum():
    mod, _ = llama("block", layers=1)
    found = to_huggingface(spmd.plan(mod, 2, sequence_parallel(mod)))
    assert found.styles == PAIRS
    assert found.left == {f"layers.*.{name}": "rowwise: here its sum is scattered" for name in ("self_attn.o_proj", "mlp.down_proj")}


def test_halves_are_packed_and_thirds_are_left():
    mod, _ = llama("block", layers=1, fused=True)
    found = to_huggingface(spmd.plan(mod, 2, megatron(mod)))
    assert found.styles == {
        "layers.*.mlp.gate_up_proj": "packed_colwise",
        "layers.*.mlp.down_proj": "rowwise",
        "layers.*.self_attn.o_proj": "rowwise_split_input",
    }
    assert found.left == {
        "layers.*.self_attn.qkv_proj.weight": "[tp:32|16|16, -]: a style has no such segments; transformers keeps it whole",
        "layers.*.self_attn.o_proj": "rowwise_split_input: here a layer beside it is split otherwise",
    }


def test_weights_that_are_gathered_are_split_as_they_lie():
    mod, _ = llama("block", layers=1, batch=256)
    profile = spmd.Profile("fast links", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e11, link_latency=0.0)
    plan = spmd.plan(mod, Mesh(dp=2), fsdp(mod), profile=profile)
    found = to_huggingface(plan, "dp")
    assert found.styles["layers.*.mlp.up_proj"] == "colwise_gather_output"
    assert found.left["layers.*.mlp.up_proj"] == "colwise_gather_output: here it is put together before it is used"
    assert found.styles["layers.*.mlp.down_proj"] == "rowwise_split_input"


class Two(nn.Module):
    """Two pairs of layers, with a norm of heads in the first."""

    def __init__(self):
        self.layers = nn.ModuleList([Pair(), Pair()])

    def forward(self, x):
        return self.layers[1](self.layers[0](x))


class Pair(nn.Module):
    def __init__(self):
        self.up, self.down = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)
        self.norm = nn.RMSNorm(8, -1, bias=False)

    def forward(self, x):
        heads = self.norm(op.reshape(self.up(x), (4, 4, 8)))
        return self.down(op.reshape(heads, (4, 32)))


@pytest.fixture(scope="module")
def two():
    return Two().export_tvm({"forward": {"x": spec.Tensor([4, 16], "float32")}})[0]


def test_a_norm_of_heads_sums_its_gradients(two):
    plan = spmd.plan(two, 2, {"layers.*.up.weight": P("tp", None), "layers.*.down.weight": P(None, "tp"), "*.norm.weight": P(None)})
    found = to_huggingface(plan)
    assert found.styles == {"layers.*.up": "colwise", "layers.*.down": "rowwise", "layers.*.norm": "replicated_with_grad_allreduce"}
    assert not found.left


def test_layers_that_differ_have_no_style(two):
    specs = {f"layers.{i}.{name}.weight": P(None, None) for i, name in ((1, "up"), (1, "down"))}
    plan = spmd.plan(two, 2, {"layers.0.up.weight": P("tp", None), "layers.0.down.weight": P(None, "tp"), **specs})
    found = to_huggingface(plan)
    assert found.styles == {}
    assert found.left["layers.*.up"].startswith("equal layers are split differently, and transformers has one style for all")


def test_two_axes_on_one_weight_are_left(two):
    plan = spmd.plan(two, Mesh(dp=2, tp=2), {"layers.*.up.weight": P("tp", "dp"), "layers.*.down.weight": P(None, "tp")})
    found = to_huggingface(plan)
    assert found.left["layers.*.up.weight"] == "[tp, dp]: a style splits one dimension, over 'tp' alone; transformers keeps it whole"
    assert found.styles["layers.*.down"] == "rowwise_split_input"
