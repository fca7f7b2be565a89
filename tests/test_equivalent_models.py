"""Whole models: sharded over any number of workers they say what they say on one.

Compiling takes nearly all of the time, so the results of one worker are kept for all meshes, and rows are few.
"""

from functools import lru_cache

import numpy as np
import pytest
import tvm
from tvm.runtime import ShapeTuple

import spmd
from examples.llm.config import LlamaConfig
from examples.llm.engine import METHODS, start
from examples.llm.model import build_module
from examples.llm.model_dense import build_dense_module
from examples.llm.weights import assemble
from spmd.testing import FREE_LINKS, difference
from tests.examples.reference import forward, random_checkpoint
from tests.models.dispatch import dispatch_kv_cache
from tests.models.mlc_llama import TINY, mlc_llama
from tests.models.test_dispatch import random_weights

pytestmark = pytest.mark.slow

HEADS = {
    "9 of 3": LlamaConfig(72, 100, 2, 9, 3, 64, 8, max_position_embeddings=128, tie_word_embeddings=True),
    "8 of 4": LlamaConfig(64, 96, 2, 8, 4, 50, 8, max_position_embeddings=128),
}
"""Query heads of KV heads; most of the sizes are no multiple of most of the meshes."""
PROMPT, ANSWER = [5, 40, 22, 7, 31], [8, 1, 33]
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}


@lru_cache
def checkpoint(heads):
    return random_checkpoint(HEADS[heads])


def weights_of(heads, dtype):
    return assemble(HEADS[heads].with_dtype(dtype), checkpoint(heads).__getitem__, "the test")


@lru_cache
def reference(heads):
    """Logits of every position, by NumPy in float32."""
    return forward(HEADS[heads], checkpoint(heads), PROMPT + ANSWER)


def sharded(mod, workers, specs=None):
    """The plain module for one worker; the profile splits whatever can be split."""
    return mod if workers == 1 else spmd.shard(mod, workers, specs, profile=FREE_LINKS)


@lru_cache
def with_cache(heads, dtype, workers):
    """Logits before each token of the answer: one prefill, then decode."""
    config = HEADS[heads].with_dtype(dtype)
    program = sharded(build_module(config, methods=METHODS)[0], workers)
    with start(program, weights_of(heads, dtype), max_seq_len=32) as engine:
        return engine.score(PROMPT, ANSWER)


@lru_cache
def without_cache(heads, dtype, workers):
    """Logits of every position of two sequences."""
    mod, shapes = build_dense_module(HEADS[heads].with_dtype(dtype))
    weights = weights_of(heads, dtype)
    ids = np.array([PROMPT + ANSWER, [*PROMPT, 0, 1, 2]], "int32")
    with spmd.workers(sharded(mod, workers)) as w:
        return w["forward"](ids, *w.load([weights[name] for name in shapes]))


NINE = [*[("float32", n) for n in (2, 3, 4, 8)], ("float16", 3)]
EIGHT = [("float32", 8), ("float16", 4)]


def check_truth(heads, dtype, found, positions):
    """Against NumPy, for which float16 is a few digits short."""
    truth = reference(heads)[positions].astype("float32")
    assert not (wrong := difference(truth, found, {"float32": 1e-3, "float16": 5e-2}[dtype])), wrong


@pytest.mark.parametrize(("dtype", "workers"), NINE)
def test_generation_with_a_cache(dtype, workers):
    expected, found = with_cache("9 of 3", dtype, 1), with_cache("9 of 3", dtype, workers)
    assert not (wrong := difference(expected, found, TOLERANCE[dtype])), wrong
    check_truth("9 of 3", dtype, found, slice(len(PROMPT) - 1, -1))


@pytest.mark.parametrize(("dtype", "workers"), EIGHT)
def test_generation_of_another_shape(dtype, workers):
    check_truth("8 of 4", dtype, with_cache("8 of 4", dtype, workers), slice(len(PROMPT) - 1, -1))


@pytest.mark.parametrize(("dtype", "workers"), NINE)
def test_a_model_without_a_cache(dtype, workers):
    expected, found = without_cache("9 of 3", dtype, 1), without_cache("9 of 3", dtype, workers)
    assert found.shape == (2, len(PROMPT + ANSWER), 64)
    assert not (wrong := difference(expected, found, TOLERANCE[dtype])), wrong
    check_truth("9 of 3", dtype, found[0], slice(None))


@pytest.mark.parametrize(("dtype", "workers"), EIGHT)
def test_a_model_without_a_cache_of_another_shape(dtype, workers):
    check_truth("8 of 4", dtype, without_cache("8 of 4", dtype, workers)[0], slice(None))


@lru_cache
def mlc(quantization, workers):
    """MLC-LLM's module with its cache dispatched: the logits after a prefill and two steps of decode."""
    mod, named = mlc_llama(TINY, quantization, functions=["embed", "prefill", "decode", "create_paged_kv_cache"])
    arrays = random_weights(named)
    program = sharded(dispatch_kv_cache(mod), workers)
    if workers > 1:
        assert [n for n in program.plan.notes if "no rule" in n] == []
    with spmd.workers(program) as w:
        params = w.load([arrays[name] for name, _ in named], "prefill")
        cache = w["create_paged_kv_cache"](*(ShapeTuple([size]) for size in (1, 64, 32, 16, 0)))
        w.call_packed("vm.builtin.kv_state_add_sequence", cache, 0)
        logits = []
        for function, ids in (("prefill", [3, 14, 15, 92]), ("decode", [65]), ("decode", [35])):
            embed = w["embed"](np.array(ids, "int32"), *params)[None]
            w.call_packed("vm.builtin.kv_state_begin_forward", cache, ShapeTuple([0]), ShapeTuple([len(ids)]))
            found, cache = w[function](embed, cache, *params)
            w.call_packed("vm.builtin.kv_state_end_forward", cache)
            logits.append(found.reshape(-1))
        return np.stack(logits)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_modules_of_mlc(quantization, workers):
    expected = mlc(quantization, 1)
    assert expected.shape == (3, TINY.vocab) and expected.dtype == "float32" and expected.std() > 0.1
    assert not (wrong := difference(expected, mlc(quantization, workers), TOLERANCE["float16"])), wrong


def test_every_worker_count_is_one_program_for_all_workers():
    """The dense model over five workers: 9 heads, 72, 100 and 64 are no multiples of five."""
    mod, _ = build_dense_module(HEADS["9 of 3"])
    program = spmd.shard(mod, 5, profile=FREE_LINKS)
    assert isinstance(program.mod, tvm.IRModule)
    assert any(s.is_padded(program.mesh) for s in program.plan.params.values())
