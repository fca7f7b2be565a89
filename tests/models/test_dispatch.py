"""Modules as MLC-LLM exports them, run on one virtual machine with a cache of TVM's CPU kernels."""

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.runtime import ShapeTuple

from tests.models import group_quant
from tests.models.dispatch import GENERIC, dispatch_kv_cache
from tests.models.mlc_llama import TINY, mlc_llama

FUNCTIONS = ["embed", "prefill", "decode", "create_paged_kv_cache"]
SEQUENCE = 0


def random_weights(named, seed=0):
    """float16 (or packed) arrays by name; a dimension that is symbolic, the vocabulary, gets its size."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, parameter in named:
        base, kind = name.rsplit(".", 1)
        if kind == "q_scale":
            continue
        rows, *columns = (TINY.vocab if isinstance(size, tvm.tirx.Var) else int(size) for size in parameter.shape)
        if not columns:
            weights[name] = rng.uniform(0.5, 1.5, rows).astype(np.float16)
        elif kind == "q_weight":
            weight = random_matrix(rng, rows, columns[0] * group_quant.PER_WORD)
            weights[name], weights[f"{base}.q_scale"] = group_quant.quantize(weight)
        else:
            weights[name] = random_matrix(rng, rows, columns[0])
    return weights


def random_matrix(rng, rows, columns):
    return (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float16)


class Chat:
    """One sequence in one cache: tokens in, logits of the next one out."""

    def __init__(self, vm, params):
        self.vm, self.params = vm, params
        # max_batch_size, max_total_seq_len, prefill_chunk_size, page_size, support_sliding_window
        self.cache = vm["create_paged_kv_cache"](*(ShapeTuple([size]) for size in (1, 64, 32, 16, 0)))
        tvm_ffi.get_global_func("vm.builtin.kv_state_add_sequence")(self.cache, SEQUENCE)

    def __call__(self, function, ids):
        embed = self.vm["embed"](tvm.runtime.tensor(np.array(ids, np.int32)), self.params)
        embed = tvm.runtime.tensor(embed.numpy()[None])
        begin = tvm_ffi.get_global_func("vm.builtin.kv_state_begin_forward")
        begin(self.cache, ShapeTuple([SEQUENCE]), ShapeTuple([len(ids)]))
        logits, self.cache = self.vm[function](embed, self.cache, self.params)
        tvm_ffi.get_global_func("vm.builtin.kv_state_end_forward")(self.cache)
        return logits.numpy().reshape(-1)


@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_prefill_and_decode_agree_with_one_longer_prefill(quantization):
    mod, named = mlc_llama(TINY, quantization, functions=FUNCTIONS)
    vm = relax.VirtualMachine(tvm.compile(dispatch_kv_cache(mod), "llvm"), tvm.cpu())
    weights = random_weights(named)
    params = tuple(tvm.runtime.tensor(weights[name]) for name, _ in named)
    ids = [3, 14, 15, 92, 65, 35]

    whole, steps = Chat(vm, params), Chat(vm, params)
    expected = whole("prefill", ids)
    first = steps("prefill", ids[:4])
    last = [steps("decode", [token]) for token in ids[4:]][-1]

    assert expected.shape == (TINY.vocab,)
    assert np.isfinite(expected).all() and np.isfinite(first).all()
    assert expected.std() > 0.1
    np.testing.assert_allclose(last, expected, atol=1e-2)
    assert np.abs(first - expected).max() > 0.1  # the tokens between them count
    np.testing.assert_array_equal(whole("decode", [7]).argmax(), steps("decode", [7]).argmax())


def test_only_the_functions_that_make_a_cache_change():
    mod, _ = mlc_llama(TINY)
    text = mod.script()
    dispatched = dispatch_kv_cache(mod)
    assert mod.script() == text
    relax.analysis.well_formed(dispatched)
    before, after = mod["create_paged_kv_cache"], dispatched["create_paged_kv_cache"]
    assert dict(after.attrs) == dict(before.attrs) and after.attrs["num_input"] == 5
    assert GENERIC not in dispatched.script()
    names = [var.name_hint for var in mod.get_global_vars() if var.name_hint != "create_paged_kv_cache"]
    for name in names:
        tvm.ir.assert_structural_equal(dispatched[name], mod[name], map_free_vars=True)
    assert len(dispatched.get_global_vars()) == len(names) + 1 + 14


def test_a_gpu_gets_its_own_kernels():
    mod, _ = mlc_llama(TINY, functions=["create_paged_kv_cache"])
    dispatched = dispatch_kv_cache(mod, tvm.target.Target({"kind": "cuda", "arch": "sm_80"}))
    assert "batch_decode_paged_kv" in {var.name_hint for var in dispatched.get_global_vars()}
