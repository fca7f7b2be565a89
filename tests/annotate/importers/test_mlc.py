"""MLC-LLM's strategies as specs, without MLC-LLM."""

from dataclasses import dataclass

import pytest
from tvm import relax

import spmd
from spmd import Mesh, P, ShardingError
from spmd.annotate.importers import from_mlc
from tests.models.mlc_llama import TINY, hand_written, mlc_llama


@dataclass
class ShardSingleDim:
    """That of ``mlc_llm.support.tensor_parallel``."""

    name: str
    dim: int
    segs: list[int] | None = None


def annotated(quantization="q0f16", n=2):
    """The model with the strategies that MLC-LLM gives its weights; segments are those of the whole weight on one device."""
    mod, named = mlc_llama(TINY, quantization, functions=["embed", "batch_decode"])
    for name, param in named:
        shard = hand_written(TINY, n, quantization).get(name)
        if shard is not None:
            param.attrs["shard_strategy"] = ShardSingleDim(f"_shard_{name}", shard.dim, list(shard.segments) if shard.segments else None)
    return mod, named


@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_mlc_strategies_are_obeyed(quantization):
    mod, named = annotated(quantization)
    specs = from_mlc(named)
    kind = "weight" if quantization == "q0f16" else "q_weight"
    assert specs[f"model.layers.0.self_attn.qkv_proj.{kind}"] == P(("tp", *TINY.qkv), None)
    assert specs[f"model.layers.1.mlp.down_proj.{kind}"] == P(None, "tp")
    assert set(specs) == set(hand_written(TINY, 2, quantization)), "what has no strategy is the planner's"
    plan = spmd.plan(mod, 2, specs)
    for name, spec in specs.items():
        found = plan.params[name.replace(".", "_")]
        assert found == spec.sharding(tuple(d.size if d else 1 for d in found.dims), Mesh(tp=2), name)


def test_mlc_weights_without_a_strategy_are_whole_if_asked():
    mod, named = annotated()
    specs = from_mlc(named, axis="x", others_whole=True)
    assert specs["model.embed_tokens.weight"] == P(others=None)
    assert specs["model.layers.0.self_attn.o_proj.weight"] == P(None, "x")
    plan = spmd.plan(mod, Mesh(x=2), specs)
    assert {n for n, s in plan.params.items() if s.axes()} == {n.replace(".", "_") for n in hand_written(TINY, 2)}


def weight(strategy, shape=(8, 4)):
    param = relax.frontend.nn.Parameter(shape)
    param.attrs["shard_strategy"] = strategy
    return [("w", param)]


def test_mlc_dimensions_and_segments():
    assert from_mlc(weight(ShardSingleDim("s", -1))) == {"w": P(None, "tp")}
    assert from_mlc(weight(ShardSingleDim("s", 0, [8]))) == {"w": P("tp", None)}
    assert from_mlc(weight(ShardSingleDim("s", 0, [2, 6]))) == {"w": P(("tp", 2, 6), None)}
    assert from_mlc([("w", relax.frontend.nn.Parameter((8, 4)))]) == {}


MLC_REFUSED = {
    "segments": (
        ShardSingleDim("s", 0, [2, 2]),
        r"shard_strategy of 'w': its segments \(2, 2\) add up to 4, and dimension 0 has size 8",
    ),
    "dimension": (ShardSingleDim("s", 2), r"shard_strategy of 'w': it splits dimension 2, and the weight has 2"),
    "kind": (object(), r"shard_strategy of 'w': <object .*> has no dimension\. Only strategies of one dimension are read"),
}


@pytest.mark.parametrize("name", MLC_REFUSED)
def test_mlc_strategies_that_are_refused(name):
    strategy, message = MLC_REFUSED[name]
    with pytest.raises(ShardingError, match=message):
        from_mlc(weight(strategy))
