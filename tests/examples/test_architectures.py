"""Each architecture says on several workers what it says on one, in prefill and decode; it has no more collectives than by hand."""

import functools

import numpy as np
import pytest

import spmd
from examples.llm.engine import METHODS, start
from examples.llm.model import build_module
from examples.llm.quantize import quantize
from tests.examples.architectures import SETTINGS, WIDE, config_of, random_weights

PROMPT, ANSWER = [3, 14, 15, 9, 26, 5, 35, 8, 9], [7, 9, 3, 23, 8, 46, 2, 6, 4]
HEADS = {"num_attention_heads": 16, "num_key_value_heads": 8, "n_head": 8, "hidden_size": 64, "n_embd": 64}
"""Sizes with a key/value head for each of 8 workers."""
COUNTS = [("mixtral", 3), ("deepseek_v3", 4), ("gemma2", 8)]
"""Architectures and numbers of workers whose numbers are compared each time; on two workers test_equivalent_models.py does."""
WORKERS = {"llama": 4, "qwen3": 3, "phi3": 4, "olmo2": 3, "gpt_neox": 3, "mixtral": 3, "deepseek_v3": 4}
"""Two where nothing else is said; 3 key/value heads, 80 features and 50 words are no multiples of most."""
SUMS = {"olmo2": 4, "gpt_neox": 1}
"""All-reduces a layer by hand: two; queries and keys that are normalized over all heads need theirs, in one call; attention and MLP
beside each other are added first."""
PROVEN = ("gemma2", "gemma3", "olmo2", "mixtral", "deepseek_v3")
"""Programs that the verifier sees here; it takes seconds, and has proven all."""
SCALED = spmd.Profile("scaled", flops=1e12, memory_bandwidth=7e8, link_bandwidth=1e10, link_latency=1e-5)
"""Reading a small layer takes as many latencies as a layer of 70 billion parameters does on a GPU."""


def sharded(name):
    """The module, and what is made of it for the workers of its row."""
    mod, _ = build_module(config_of(name), methods=METHODS)
    return mod, spmd.shard(mod, WORKERS.get(name, 2), profile=SCALED)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_plan(name):
    """All large weights are split, by no more collectives than by hand."""
    layers, (mod, found) = config_of(name).num_hidden_layers, sharded(name)
    calls = [one.kind for one in found.plan.collectives if one.function == "decode"]
    assert len(calls) <= SUMS.get(name, 2) * layers + 1, calls  # one for the head
    whole = [n for n, s in found.plan.params.items() if "layers" in n and n.endswith("proj.weight") and s.is_replicated]
    assert not [name for name in whole if "_a_" not in name]  # latents are made on each worker
    assert not [note for note in found.plan.notes if "no rule" in note]
    if name in PROVEN:
        spmd.verify(mod, found)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_quantized_experts(name):
    """They are split as those of floats are, by no more collectives; one more a layer where making latents on each worker takes longer."""
    config = config_of(name, **WIDE)
    mod = quantize(build_module(config, methods=["embed", "prefill", "decode"])[0], "q4f32_1")
    found = spmd.shard(mod, 2, profile=SCALED)
    calls = [one.kind for one in found.plan.collectives if one.function == "decode"]
    assert len(calls) <= (3 if "deepseek" in name else 2) * config.num_hidden_layers + 1, calls
    packed = {n: s for n, s in found.plan.params.items() if "layers" in n and n.endswith(("q_weight", "q_scale")) and "_a_" not in n}
    assert any("experts" in n for n in packed) and not [n for n, s in packed.items() if s.is_replicated]
    if name == "mixtral":
        spmd.verify(mod, found)


def pytest_generate_tests(metafunc):
    if "count" in metafunc.fixturenames:
        every = metafunc.config.getoption("--every-count")
        metafunc.parametrize(("name", "count"), [(n, c) for n in SETTINGS for c in (2, 3, 4, 8)] if every else COUNTS)


def test_the_numbers(name, count):
    """Prefill and eight steps. Compiling takes seconds: `pytest --every-count` runs each architecture on each number of workers."""
    config = config_of(name, **HEADS)
    found = spmd.shard(module(config), count, profile=SCALED)
    assert not all(sharding.is_replicated for sharding in found.plan.params.values())
    np.testing.assert_allclose(run(found, config), unsharded(name), rtol=1e-4, atol=1e-4)


def module(config):
    return build_module(config, methods=METHODS)[0]


@functools.cache
def unsharded(name):
    config = config_of(name, **HEADS)
    return run(module(config), config)


def run(program, config):
    with start(program, random_weights(config), max_seq_len=32, window=max(config.layer_windows)) as engine:
        return engine.score(PROMPT, ANSWER)
