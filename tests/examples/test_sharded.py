"""Generation on several workers, over weights that specs split, against the NumPy reference."""

from dataclasses import replace

import numpy as np

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.engine import METHODS, start
from examples.llm.model import build_module
from examples.llm.weights import assemble
from spmd import P
from tests.examples.files import CONFIG
from tests.examples.reference import forward, random_checkpoint

CHECKPOINT = random_checkpoint(CONFIG)
PROMPT = [5, 60, 200, 7, 31]
MEGATRON = {
    "*.qkv_proj.weight": P(("tp", *CONFIG.qkv_sizes), None),
    "*.o_proj.weight": P(None, "tp"),
    "*.gate_up_proj.weight": P(("tp", CONFIG.intermediate_size, CONFIG.intermediate_size), None),
    "*.down_proj.weight": P(None, "tp"),
    "*.embed_tokens.weight": P("tp", None),
}


def test_three_workers():
    sharded = spmd.shard(build_module(CONFIG, methods=METHODS)[0], mesh=3, specs=MEGATRON)
    with start(sharded, assemble(CONFIG, CHECKPOINT.__getitem__, "test"), max_seq_len=64) as engine:
        logits: list[np.ndarray] = []
        answer = list(engine.generate(PROMPT, max_tokens=8, logits_out=logits))
    expected = forward(CONFIG, CHECKPOINT, PROMPT + answer)[len(PROMPT) - 1 : -1]
    assert answer == expected.argmax(-1).tolist()
    np.testing.assert_allclose(np.stack(logits), expected, rtol=1e-3, atol=1e-3)
    kinds = [one.kind for one in sharded.plan.collectives if one.function == "decode"]
    assert kinds.count("all_reduce") + kinds.count("reduce_scatter") == 2 * CONFIG.num_hidden_layers


def test_the_planner_on_llama_2_70b():
    """The planner's own choice for one layer of Llama-2-70B: fused weights by segments, outputs by rows."""
    config = replace(LlamaConfig.preset("llama-2-70b"), num_hidden_layers=1)
    plan = spmd.plan(build_module(config, methods=["decode"])[0], mesh=2)
    params = {name: str(sharding) for name, sharding in plan.params.items()}
    assert params["model.layers.0.self_attn.qkv_proj.weight"] == "[tp:8192|1024|1024, -]"
    assert params["model.layers.0.mlp.gate_up_proj.weight"] == "[tp:28672|28672, -]"
    assert params["model.layers.0.self_attn.o_proj.weight"] == params["model.layers.0.mlp.down_proj.weight"] == "[-, tp]"
