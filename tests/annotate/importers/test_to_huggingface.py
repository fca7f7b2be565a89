"""Plans as styles of transformers: round trips, and what is said of plans that no styles say. None of it needs transformers."""

from types import SimpleNamespace

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
WHOLE = {"embed_tokens": "replicate", "lm_head": "replicate"}
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
    assert found.styles == PAIRS | WHOLE
    assert found.left == {f"layers.*.{name}": "rowwise: here its sum is scattered" for name in ("self_attn.o_proj", "mlp.down_proj")}


def test_halves_are_packed_and_thirds_are_left():
    mod, _ = llama("block", layers=1, fused=True)
    found = to_huggingface(spmd.plan(mod, 2, megatron(mod)))
    assert found.styles == {
        "layers.*.mlp.gate_up_proj": "packed_colwise",
        "layers.*.mlp.down_proj": "rowwise",
        "layers.*.self_attn.o_proj": "rowwise_split_input",
        "layers.*.self_attn.qkv_proj": "replicate",
        **WHOLE,
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
    assert found.styles == {"layers.*.up": "replicate", "layers.*.down": "replicate"}
    assert found.left["layers.*.up"].startswith("equal layers are split differently, and transformers has one style for all")


def test_two_axes_on_one_weight_are_left(two):
    plan = spmd.plan(two, Mesh(dp=2, tp=2), {"layers.*.up.weight": P("tp", "dp"), "layers.*.down.weight": P(None, "tp")})
    found = to_huggingface(plan)
    assert found.left["layers.*.up.weight"] == "[tp, dp]: a style splits one dimension, over 'tp' alone; transformers keeps it whole"
    assert found.styles["layers.*.down"] == "rowwise_split_input"


class Gated(nn.Module):
    """Two layers whose results are multiplied, and a third that sums; and a table that is a layer as well."""

    def __init__(self):
        self.embed, self.gate, self.up = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False), nn.Linear(16, 32, bias=False)
        self.down = nn.Linear(32, 16, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        made = self.down(op.multiply(self.gate(x), self.up(x)))
        return op.matmul(made, op.permute_dims(nn.Tensor(_expr=self.embed.weight._expr)))


@pytest.fixture(scope="module")
def gated():
    return Gated().export_tvm({"forward": {"ids": spec.Tensor([4], "int32")}})[0]


ROWS, COLUMNS, NEITHER = P("tp", None), P(None, "tp"), P(None, None)


def test_what_meets_a_sum_that_is_scattered_is_whole(gated):
    """By styles, the model sums what `up` makes and has all of it, where the plan scatters the sum and multiplies it with a part."""
    specs = {"gate.weight": ROWS, "up.weight": COLUMNS, "down.weight": COLUMNS, "forward.matmul1": COLUMNS}
    found = to_huggingface(spmd.plan(gated, 2, {**specs, "embed.weight": NEITHER}))
    assert found.styles == {
        "gate": "colwise_gather_output",
        "up": "rowwise_split_input",
        "down": "rowwise_split_input",
        "embed": "replicate",
    }
    assert found.left["gate"] == "colwise_gather_output: here it meets 'forward.matmul1', which is split, and by styles is not"


class Model:
    """As much of a model of transformers as is looked at."""

    def __init__(self):
        table = object()
        self.tp_plan = {"gate": "colwise", "experts": "moe_tp_experts"}
        self.parameters = {"embed.weight": table, "gate.weight": object(), "up.weight": object(), "head.weight": table}

    def named_modules(self):
        layer = {"in_features": 1, "out_features": 1}
        return [
            ("embed", SimpleNamespace(num_embeddings=1)),
            ("gate", object()),
            *((name, SimpleNamespace(**layer)) for name in ("up", "down")),
        ]

    def named_parameters(self, remove_duplicate):
        assert not remove_duplicate
        return self.parameters.items()


def test_a_model_says_what_its_own_plan_would_add_and_which_layers_cannot_be_split(gated):
    specs = {"gate.weight": ROWS, "up.weight": ROWS, "down.weight": COLUMNS, "embed.weight": ROWS}
    plan = spmd.plan(gated, 2, specs)
    assert to_huggingface(plan).styles == {"gate": "colwise", "up": "colwise", "down": "rowwise", "embed": "embedding_rowwise"}
    found = to_huggingface(plan, model=Model())
    assert found.styles == {
        "embed": "embedding_rowwise",
        "up": "colwise_gather_output",
        "down": "rowwise_split_input",
        "gate": "replicate",
        "head": "colwise_gather_output",
        "experts": "replicate",
    }
    assert found.left["gate.weight"] == "[tp, -]: transformers cannot split a object; transformers keeps it whole"
    with pytest.raises(spmd.ShardingError, match=r"to_huggingface.*it takes a model of transformers, and got"):
        to_huggingface(plan, model=7)
