"""The models against the NumPy reference, and what their modules look like."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.runtime import ShapeTuple

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.errors import ModelError
from examples.llm.model import METHODS, bounded, build_module
from examples.llm.model_dense import build_dense_module, rotary_frequencies
from examples.llm.weights import assemble
from spmd.schedules import pipeline, resolve
from tests.examples.reference import Weights, forward, inverse_frequencies, random_checkpoint

TINY = replace(LlamaConfig.preset("tiny"), rope_theta=5000.0)
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
CONFIGS = {
    "shared heads, tied": TINY,
    "own heads, untied": replace(TINY, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False),
    "head size of its own": replace(TINY, head_dim=16, num_key_value_heads=2),
    "llama 3 rope": replace(TINY, rope_theta=500.0, rope_scaling={"rope_type": "llama3", **LLAMA3}),
}


def arrays(config: LlamaConfig, checkpoint: Weights) -> list[tvm.runtime.Tensor]:
    """The fused weights in parameter order, on the CPU."""
    weights = assemble(config, checkpoint.__getitem__, "test")
    return [tvm.runtime.tensor(array) for array in weights.values()]


def machine(mod: tvm.IRModule) -> relax.VirtualMachine:
    return relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())


@pytest.mark.parametrize("name", CONFIGS)
def test_dense_model(name):
    config, ids = CONFIGS[name], [3, 14, 15, 9, 26, 53, 5]
    checkpoint = random_checkpoint(config)
    vm = machine(build_dense_module(config)[0])
    batch = np.array([ids, ids[::-1]], "int32")
    logits = vm["forward"](tvm.runtime.tensor(batch), *arrays(config, checkpoint)).numpy()
    for row, sequence in zip(logits, batch.tolist(), strict=True):
        np.testing.assert_allclose(row, forward(config, checkpoint, sequence), rtol=1e-4, atol=1e-4)


def run_paged(config: LlamaConfig, checkpoint: Weights, first: list[int], second: list[int], steps: int) -> np.ndarray:
    """Logits (2, steps, vocab) of two sequences that share a cache: one batched prefill, then batched decodes."""
    vm = machine(build_module(config)[0])
    weights = arrays(config, checkpoint)
    cache = vm["create_paged_kv_cache"](*(ShapeTuple([size]) for size in (2, 128, 64, 16, 0)))
    begin, end = (tvm.get_global_func(f"vm.builtin.kv_state_{name}_forward") for name in ("begin", "end"))
    for sequence in range(2):
        tvm.get_global_func("vm.builtin.kv_state_add_sequence")(cache, sequence)

    def embed(ids: list[int]) -> np.ndarray:
        return vm["embed"](tvm.runtime.tensor(np.array(ids, "int32")), *weights).numpy()

    cut = [len(sequence) - steps + 1 for sequence in (first, second)]
    begin(cache, ShapeTuple([0, 1]), ShapeTuple(cut))
    joined = tvm.runtime.tensor(embed(first[: cut[0]] + second[: cut[1]])[None])
    last = tvm.runtime.tensor(np.array([cut[0] - 1, cut[0] + cut[1] - 1], "int32"))
    logits, cache = vm["batch_prefill"](joined, last, cache, *weights)
    end(cache)
    found = [logits.numpy()[0]]
    for step in range(steps - 1):
        begin(cache, ShapeTuple([0, 1]), ShapeTuple([1, 1]))
        tokens = tvm.runtime.tensor(embed([first[cut[0] + step], second[cut[1] + step]])[:, None])
        logits, cache = vm["batch_decode"](tokens, cache, *weights)
        end(cache)
        found.append(logits.numpy()[:, 0])
    return np.stack(found, axis=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_paged_model(name):
    config = CONFIGS[name]
    checkpoint, random = random_checkpoint(config), np.random.default_rng(1)
    first, second = (
        random.integers(0, config.vocab_size, 40).tolist(),
        random.integers(0, config.vocab_size, 9).tolist(),
    )
    logits = run_paged(config, checkpoint, first, second, steps=4)
    for found, sequence in zip(logits, (first, second), strict=True):
        np.testing.assert_allclose(found, forward(config, checkpoint, sequence)[-4:], rtol=1e-3, atol=1e-3)


def test_half_precision():
    config = TINY.with_dtype("float16")
    checkpoint = random_checkpoint(config)
    rounded = {name: array.astype("float16") for name, array in checkpoint.items()}
    first, second = [1, 2, 3, 4, 5, 6], [60, 50, 40, 30]
    logits = run_paged(config, checkpoint, first, second, steps=3)
    assert logits.dtype == np.float32
    for found, sequence in zip(logits, (first, second), strict=True):
        np.testing.assert_allclose(found, forward(config, rounded, sequence)[-3:], rtol=0.05, atol=0.15)


def test_llama3_frequencies():
    config = LlamaConfig.preset("llama-3.1-8b")
    np.testing.assert_allclose(rotary_frequencies(config), inverse_frequencies(config))
    assert rotary_frequencies(config)[-1] == pytest.approx(config.rope_theta ** -(126 / 128) / 8)


@pytest.mark.parametrize("param_mode", ["plain", "packed"])
def test_weights_follow_the_inputs(param_mode):
    mod, weights = build_module(TINY, param_mode=param_mode)
    inputs = {"embed": 1, "prefill": 2, "decode": 2, "batch_prefill": 3, "batch_decode": 2}
    for name, count in inputs.items():
        function = mod[name]
        assert int(function.attrs["num_input"]) == count
        found = function.params[count:]
        if param_mode == "packed":
            assert [tuple(map(int, field.shape)) for field in found[0].ty.fields] == [s for s, _ in weights.values()]
        else:
            assert [var.name for var in found] == list(weights)
    assert int(mod["create_paged_kv_cache"].attrs["num_input"]) == len(mod["create_paged_kv_cache"].params) == 5


def test_methods_can_be_chosen():
    mod, _ = build_module(TINY, methods=["decode", "embed"])
    functions = {var.name_hint for var, function in mod.functions.items() if isinstance(function, relax.Function)}
    assert functions == {"embed", "decode"}
    with pytest.raises(ModelError, match=f"no encode.*{METHODS[0]}"):
        build_module(TINY, methods=["encode"])


def test_the_model_is_for_one_device():
    text = build_module(TINY)[0].script().lower()
    assert not any(word in text for word in ("shard", "spmd", "mesh", "ccl", "all_reduce", "worker"))


def test_seventy_billion_parameters_take_no_memory():
    _, weights = build_module(LlamaConfig.preset("llama-2-70b"), methods=["decode"])
    assert sum(int(np.prod(shape, dtype="int64")) for shape, _ in weights.values()) == 68_976_648_192


def test_bounds_make_storage_static():
    """Of the program of a worker all storage is planned when sizes are bounded, and some is not when they are not."""
    module = build_module(TINY, methods=["embed", "prefill"])[0]
    counts = []
    for mod in (module, bounded(module, {"seq_len": 64})):
        lowered = pipeline(resolve("llvm"))(spmd.shard(mod, 2, profile=spmd.testing.FREE_LINKS).mod)
        storages = re.findall(r"R\.vm\.alloc_storage\((.*?), 0,", lowered["prefill"].script())
        counts.append([len([size for size in storages if not size.startswith("R.shape([")]), len(storages)])
    assert counts[0][0] > 0 and counts[1][0] == 0
    assert counts[1][1] < counts[0][1]
