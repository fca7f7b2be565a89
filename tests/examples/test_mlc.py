"""Libraries for MLC-LLM's engine: all that its function table names, and the same numbers under Disco."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.target import Target

from examples.llm import build, convert_weights
from examples.llm.errors import ModelError
from examples.llm.mlc import library
from examples.llm.mlc.logits import kernels
from examples.llm.mlc.samplers import add_samplers
from examples.llm.source import open_model
from tests.examples.architectures import config_of
from tests.examples.files import CONFIG as TWO_LAYERS
from tests.examples.files import write_folder
from tests.examples.reference import random_checkpoint
from tests.mpi import ROOT
from tests.pocl import on_pocl

REQUIRED = [
    "_metadata", "embed", "prefill", "decode", "batch_prefill", "batch_decode", "batch_verify", "create_tir_paged_kv_cache",
    "softmax_with_temperature", "apply_logit_bias_inplace", "apply_penalty_inplace", "apply_bitmask_inplace", "alloc_embedding_tensor",
    "gather_probs", "scatter_probs",
]  # fmt: skip
"""What `FunctionTable::_InitFunctions` of MLC-LLM asks a library for and its engine needs for any text model."""
ON_GPUS = [
    "multinomial_from_uniform", "argsort_probs", "sample_with_top_p", "sampler_take_probs", "sampler_verify_draft_tokens",
    "renormalize_by_top_p",
]  # fmt: skip
"""What it needs besides where it draws tokens on the GPU."""
OTHERS = [
    "image_embed", "extend", "batch_extend", "prefill_to_last_hidden_states", "decode_to_last_hidden_states",
    "batch_prefill_to_last_hidden_states", "batch_decode_to_last_hidden_states", "batch_verify_to_last_hidden_states",
    "fuse_embed_hidden_states", "get_logits", "batch_get_logits", "batch_select_last_hidden_states", "cuda_graph_alloc_init",
    "create_flashinfer_paged_kv_cache", "create_rnn_state", "gather_hidden_states", "scatter_hidden_states",
]  # fmt: skip
"""What it takes where it is there: for images, for draft models that read hidden states, for other kinds of states and caches."""
CONFIG = dataclasses.replace(TWO_LAYERS, num_hidden_layers=1)
LARGE = 65  # a vocabulary that is no multiple of a warp


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model"), CONFIG, random_checkpoint(CONFIG))


def test_a_library_for_one_worker(model, tmp_path):
    """Built and converted from the command line, and loaded as the engine does where there is one GPU."""
    common = ["--model", str(model), "--quantization", "q4f32_1", "-o", str(tmp_path), "--runtime", "mlc"]
    assert build.main([*common, "--max-seq-len", "128"]) == 0 and convert_weights.main(common) == 0
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / library.LIBRARY)), tvm.cpu())
    for name in REQUIRED:
        assert machine.module.get_function(name, query_imports=True) is not None, name
    metadata, chat = json.loads(str(machine["_metadata"]())), json.loads((tmp_path / library.CONFIG).read_text())
    heads = {"num_attention_heads": CONFIG.num_attention_heads, "num_key_value_heads": CONFIG.num_key_value_heads}
    assert metadata["kv_cache"] == {"num_hidden_layers": CONFIG.num_hidden_layers, **heads, "head_dim": CONFIG.head_dim}
    assert metadata["memory_usage"]["prefill"] > 0 and all(param["preprocs"] == [] for param in metadata["params"])
    assert (chat["model_type"], chat["vocab_size"], chat["tensor_parallel_shards"]) == ("llama", CONFIG.vocab_size, 1)
    assert (tmp_path / "tokenizer.json").is_file() and open_model(model).config == CONFIG
    tvm.get_global_func("vm.builtin.tensor_cache.load")(str(tmp_path), tvm.cpu().dlpack_device_type(), 0)
    names = [param["name"] for param in metadata["params"]]
    params = tvm.get_global_func("vm.builtin.param_array_from_cache_by_name")(names)
    assert [[tuple(p.shape), str(p.dtype)] for p in params] == [[tuple(p["shape"]), p["dtype"]] for p in metadata["params"]]
    found = machine["embed"](tvm.runtime.tensor(np.array([1, 2], "int32")), params).numpy()
    assert found.shape == (2, CONFIG.hidden_size) and np.isfinite(found).all()


def test_two_workers_of_disco():
    """In a process of its own, as an error in a worker of Disco ends its process."""
    program = [sys.executable, "-m", "tests.examples.mlc_run", "llama", "q4f32_1"]
    ended = subprocess.run(program, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("7 rows of logits\n")


def test_windows_are_refused():
    with pytest.raises(ModelError, match=r"--runtime mlc: layers of this model look back a window\. Run it without --runtime mlc"):
        library.build(config_of("mistral"), 1, Target("llvm"), "", "q0f32", "cpu", 64, False)


def test_logits_in_place():
    random = np.random.default_rng(0)
    named = tvm.compile(tvm.IRModule(dict(kernels(on_gpu=False))), "llvm")
    source = tvm.compile(tvm.IRModule(dict(kernels(on_gpu=True))), "opencl").mod
    assert all(f"{name}_kernel" in "".join(part.inspect_source() for part in source.imports) for name in kernels(on_gpu=True))

    def call(name, *arrays):
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        named[name](*tensors)
        return [tensor.numpy() for tensor in tensors]

    logits, rows, tokens = random.standard_normal((4, LARGE)).astype("float32"), np.array([2, 0], "int32"), np.array([7, 9, 3], "int32")
    wanted = logits.copy()
    wanted[[0, 3, 3], tokens] += [1.0, 2.0, 3.0]
    found = call("apply_logit_bias_inplace", logits, np.array([0, 3, 3], "int32"), tokens, np.array([1, 2, 3], "float32"))[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    of, counts, penalties = np.array([0, 1, 1], "int32"), np.array([1, 2, 5], "int32"), np.array([[0.5, 0.25, 2], [0, 0.5, 1.5]], "float32")
    wanted = logits.copy()
    for i in range(3):
        value = wanted[rows[of[i]], tokens[i]] - penalties[of[i], 0] - counts[i] * penalties[of[i], 1]
        wanted[rows[of[i]], tokens[i]] = value * penalties[of[i], 2] if value < 0 else value / penalties[of[i], 2]
    np.testing.assert_allclose(call("apply_penalty_inplace", logits, rows, of, tokens, counts, penalties)[0], wanted, rtol=1e-6)
    mask = random.integers(0, 2**32, (4, 3), "uint32")
    allowed = (mask[rows][:, np.arange(LARGE) // 32] >> (np.arange(LARGE) % 32).astype("uint32")) & 1
    wanted = logits.copy()
    wanted[rows] = np.where(allowed, logits[rows], np.finfo("float32").min)
    np.testing.assert_array_equal(call("apply_bitmask_inplace", logits, rows, mask.view("int32"))[0], wanted)
    target = np.zeros((4, LARGE), "float32")
    np.testing.assert_array_equal(call("scatter_probs", logits[:2], rows, target)[2][rows], logits[:2])
    np.testing.assert_array_equal(call("gather_probs", logits, rows, target[:2])[2], logits[rows])


def test_draws_on_a_gpu():
    """All samplers, by pocl."""
    builder = relax.BlockBuilder()
    add_samplers(builder, "cuda")
    mod = builder.get()
    assert {var.name_hint for var, f in mod.functions_items() if isinstance(f, relax.Function)} == {"softmax_with_temperature", *ON_GPUS}
    assert not set(REQUIRED + ON_GPUS) & set(OTHERS) and isinstance(mod["verify_draft"], tirx.PrimFunc)
    random = np.random.default_rng(1)
    probs = random.dirichlet(np.full(LARGE, 0.3), 3).astype("float32")
    uniform, rows, top_p = random.random(4).astype("float32"), np.array([2, 0, 0, 1], "int32"), np.array([0.3, 0.9, 1.0], "float32")
    ordered = -np.sort(-probs, axis=1)
    kept = np.cumsum(ordered, 1) - ordered < top_p[:, None]
    with on_pocl(mod) as workers:
        logits = random.standard_normal((2, 1, LARGE)).astype("float32")
        logits[1, 0, [3, 60]] = 9
        cold = np.zeros(LARGE)
        cold[[3, 60]] = 0.5
        hot = np.exp(logits[0, 0] / 0.7) / np.exp(logits[0, 0] / 0.7).sum()
        found = workers["softmax_with_temperature"](logits, np.array([0.7, 0], "float32"))
        np.testing.assert_allclose(found[:, 0], [hot, cold], rtol=1e-4, atol=1e-6)
        values, order = workers["argsort_probs"](probs)
        np.testing.assert_array_equal(values, ordered)
        np.testing.assert_array_equal(np.take_along_axis(probs, order, 1), ordered)
        drawn = workers["multinomial_from_uniform"](probs, uniform, rows)
        np.testing.assert_array_equal(drawn, [np.searchsorted(np.cumsum(probs[r]), u, "right") for r, u in zip(rows, uniform, strict=True)])
        top = workers["sample_with_top_p"](values, order, uniform, rows, top_p)
        sums = [np.cumsum(ordered[r] * kept[r]) for r in rows]
        wanted = [order[r, np.searchsorted(c, u * c[-1], "right")] for r, c, u in zip(rows, sums, uniform, strict=True)]
        np.testing.assert_array_equal(top, wanted)
        at = np.array([0, LARGE + 2], "int32")
        taken = workers["sampler_take_probs"](probs, order, rows, drawn, at)
        np.testing.assert_array_equal(taken[0], probs[rows, drawn])
        np.testing.assert_array_equal(taken[1], [ordered[0, 0], ordered[1, 2]])
        np.testing.assert_array_equal(taken[2], [order[0, 0], order[1, 2]])
        chosen = np.where(probs >= np.where(kept, ordered, 2).min(1, keepdims=True), probs, 0)
        renormalized = workers["renormalize_by_top_p"](probs, top_p, np.zeros((3, 3), "float32"))
        np.testing.assert_allclose(renormalized, chosen / chosen.sum(1, keepdims=True), rtol=1e-4, atol=1e-7)
        check_verifier(workers, random)


def check_verifier(workers, random):
    """Random trees of guesses against the same rule in Python."""
    nodes, trees = 12, np.array([0, 6], "int32")
    draft, probs = (random.dirichlet(np.full(LARGE, 0.2), nodes).astype("float32") for _ in range(2))
    tokens, uniform = random.integers(0, LARGE, nodes).astype("int32"), random.random(nodes).astype("float32")
    first, after = np.array([1, 3, -1, 4, -1, -1] * 2, "int32"), np.array([-1, 2, -1, 5, -1, -1] * 2, "int32")
    first[6:], after[6:] = np.where(first[6:] < 0, -1, first[6:] + 6), np.where(after[6:] < 0, -1, after[6:] + 6)
    wanted, ends = probs.astype("float64"), []
    for root in trees:
        parent, child = root, first[root]
        while child != -1:
            rest = np.maximum(wanted[parent] - draft[child], 0)
            if wanted[parent, tokens[child]] >= uniform[child] * draft[child, tokens[child]] or rest.sum() < 1e-7:
                parent, child = child, first[child]
            else:
                wanted[parent], child = rest / rest.sum(), after[child]
        ends.append(parent)
    found, last = workers["sampler_verify_draft_tokens"](draft, tokens, probs, first, after, uniform, trees)
    np.testing.assert_array_equal(last, ends)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
