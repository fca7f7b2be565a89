"""Plans of transformers as specs, without transformers."""

import pytest

import spmd
from spmd import P, ShardingError
from spmd.annotate.importers import from_huggingface

PLAN = {
    "layers.*.self_attn.q_proj": "colwise",
    "layers.*.self_attn.o_proj": "rowwise",
    "layers.*.self_attn.q_norm": "replicated_with_grad_allreduce",
    "layers.*.mlp.experts.gate_up_proj": "packed_colwise",
    "layers.*.mlp.experts.down_proj": "rowwise",
    "layers.*.mlp.experts": "moe_tp_experts",
    "layers.*.mlp.router": "ep_router",
    "embed_tokens": "embedding_rowwise",
    "lm_head": "colwise_gather_output",
}
WEIGHTS = {
    "model.embed_tokens.weight": (10, 8),
    "model.layers.0.self_attn.q_proj.weight": (16, 8),
    "model.layers.0.self_attn.q_proj.bias": (16,),
    "model.layers.11.self_attn.o_proj.weight": (8, 16),
    "model.layers.11.self_attn.o_proj.bias": (8,),
    "model.layers.0.self_attn.q_norm.weight": (4,),
    "model.layers.0.mlp.experts.gate_up_proj": (4, 24, 8),
    "model.layers.0.mlp.experts.down_proj": (4, 8, 12),
    "model.layers.0.mlp.router.weight": (4, 8),
    "lm_head.weight": (10, 8),
    "model.norm.weight": (8,),
}


def test_each_style_of_a_weight():
    found = from_huggingface(PLAN, WEIGHTS, "tp")
    assert {name: str(spec) for name, spec in found.specs.items()} == {
        "model.embed_tokens.weight": str(P("tp", None)),
        "model.layers.0.self_attn.q_proj.weight": str(P("tp", None)),
        "model.layers.0.self_attn.q_proj.bias": str(P("tp")),
        "model.layers.11.self_attn.o_proj.weight": str(P(None, "tp")),
        "model.layers.11.self_attn.o_proj.bias": str(P(others=None)),
        "model.layers.0.self_attn.q_norm.weight": str(P(others=None)),
        "model.layers.0.mlp.experts.gate_up_proj": str(P(None, ("tp", 12, 12), None)),
        "model.layers.0.mlp.experts.down_proj": str(P(None, None, "tp")),
        "lm_head.weight": str(P("tp", None)),
    }
    assert found.left == {
        "layers.*.mlp.router": "ep_router: it says how activations are sent, which follows from the weights here",
        "layers.*.mlp.experts": "moe_tp_experts: the model has no such weight",
    }


def test_an_expert_plan_goes_before_and_a_pipeline_is_left():
    """As transformers merges them."""
    weights = {"layers.0.experts.gate_up_proj": (4, 24, 8), "layers.0.kv_a.weight": (8, 8)}
    weights |= {"ngram.weight": (10, 8), "layers.0.aria": (4, 8, 24)}
    plan = {
        "layers.*.experts.gate_up_proj": "packed_colwise",
        "layers.*.kv_a": "mla_kv_a_proj",
        "ngram": "embedding_colwise",
        "layers.*.aria": "packed_rowwise",
        "layers.*.shared": "all_reduce",
        "layers.*.attn": "local_params",
    }
    tp = from_huggingface(plan, weights)
    ep = from_huggingface({"layers.*.experts.gate_up_proj": "grouped_gemm", "layers.*.experts": "ep_dispatch_experts"}, weights)
    assert {name: str(spec) for name, spec in (tp.specs | ep.specs).items()} == {
        "layers.0.experts.gate_up_proj": str(P("tp", None, None)),
        "layers.0.kv_a.weight": str(P(others=None)),
        "ngram.weight": str(P(None, "tp")),
        "layers.0.aria": str(P(None, None, ("tp", 12, 12))),
    }
    pp = from_huggingface({"layers": (["hidden_states"], ["hidden_states"])}, weights)
    assert not pp.specs
    assert pp.left == {"layers": "pp_plan: it says where a pipeline may be cut, and here every worker runs all layers"}


def test_every_style_of_transformers_is_known():
    styles = list(pytest.importorskip("transformers.integrations.tensor_parallel").ALL_PARALLEL_STYLES.keys())
    found = from_huggingface({f"w.{style}": style for style in styles}, {f"w.{style}": (4, 4) for style in styles})
    assert len(found.specs) + len(found.left) == len(styles)


def test_what_would_be_dropped_is_listed():
    found = from_huggingface(
        {"embed": "embedding_rowwise", "up": "packed_colwise"}, {"embed.weight": (10, 8), "up.weight": (6, 8)}, workers=4
    )
    assert found.left == {
        "embed.weight": "10 is no multiple of 4 workers: transformers drops the last 2, here they are padded",
        "up.weight": "3 is no multiple of 4 workers: transformers drops the last 3, here they are padded",
    }


@pytest.mark.parametrize(
    ("plan", "weights", "message"),
    [
        ({"up": "diagonal"}, {"up.weight": (2, 2)}, "from_huggingface, 'up': there is no style 'diagonal'. Known are 'colwise'"),
        ("auto", {}, "it takes a plan, a dict of names and styles, and got str 'auto'"),
        ({"up": "colwise"}, [1], r"it takes the weights by name, and got a list \[1\]"),
    ],
)
def test_what_is_no_plan(plan, weights, message):
    with pytest.raises(ShardingError, match=message):
        from_huggingface(plan, weights)


def test_a_model_by_its_own_plan():
    """The specs are taken by `plan`, and the weights are where they say."""
    from tests.programs import Mlp

    found = from_huggingface({"w1": "colwise", "w2": "rowwise"}, {"w1": (16, 32), "w2": (32, 16)})
    plan = spmd.plan(Mlp, 2, found.specs)
    assert {name: str(s) for name, s in plan.params.items()} == {"w1": "[tp, -]", "w2": "[-, tp]"}
