"""Attention of ours beside that of TVM's, which it stands for."""

from functools import lru_cache

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm.relax.frontend.nn.llm import kv_cache

from spmd import schedules
from spmd.lower.score_cap import capped
from spmd.schedules.cpu.known import KnownAttention
from spmd.schedules.cpu.unwritten import ReadWritten

PAGES, PAGE = 40, 16
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def own(groups, heads, d_qk, d_v, dtype, scaling=None):
    return kv_cache._attention_prefill_ragged_cpu(groups, heads, d_qk, d_v, dtype, scaling or {})


def past(groups, heads, d, dtype, window=None, scaling=None):
    more = {} if window is None else {"sliding_window_size": window}
    return kv_cache._attention_prefill_cpu(groups, heads, d, dtype, window is not None, scaling or {}, **more)


def decode(groups, heads, d, dtype, sliding=False, scaling=None):
    return kv_cache._attention_decode_cpu(groups, heads, d, dtype, sliding, scaling or {})


def replaced(kernel, parallel=False):
    mod = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    made = KnownAttention(parallel=parallel)(mod)["main"]
    return None if made.same_as(mod["main"]) else made


@lru_cache
def built(make, *args):
    """TVM's kernel, mended where it reads what nobody wrote, and ours on one thread and on several."""
    theirs = ReadWritten()(tvm.IRModule({"main": make(*args).with_attr("global_symbol", "main")}))["main"]
    ours = [replaced(make(*args), parallel) for parallel in (False, True)]
    assert None not in ours
    target = schedules.resolve("llvm")
    with target:
        return [tvm.compile(tvm.IRModule({"main": kernel}), target)["main"] for kernel in (theirs, *ours)]


def results(kernel, arrays, shape, dtype, numbers):
    output, lse = (tvm.runtime.tensor(np.full(s, 7, t)) for s, t in ((shape, dtype), (shape[:2], "float32")))
    kernel(*map(tvm.runtime.tensor, arrays), output, lse, *numbers)
    return output.numpy().astype("float32"), lse.numpy()


def check(kernels, arrays, shape, dtype, numbers):
    """Equal where a query sees anything at all; what sees nothing weighs nothing."""
    (expected, logarithms), *found = [results(kernel, arrays, shape, dtype, numbers) for kernel in kernels]
    sees = logarithms > -4e4
    for output, lse in found:
        np.testing.assert_array_equal(lse > -4e4, sees)
        np.testing.assert_allclose(lse[sees], logarithms[sees], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(output[sees], expected[sees], atol=2e-5 if dtype == "float32" else 2e-3)


def tokens(lengths):
    return np.cumsum([0, *lengths]).astype("int32")


def drawn(shape, dtype):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("sizes", [(3, 9, 64, 64), (1, 4, 40, 24), (2, 2, 128, 128), (5, 5, 10, 7)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_own(sizes, dtype, causal, mode):
    groups, heads, d_qk, d_v = sizes
    queries, keys = [70, 1, 5, 64, 3], [70, 1, 133, 64, 60]
    arrays = [drawn((sum(queries), heads, d_qk), dtype), tokens(queries), drawn((sum(keys), groups, d_qk), dtype)]
    arrays += [drawn((sum(keys), groups, d_v), dtype), tokens(keys), np.arange(sum(queries), dtype="int32"), np.zeros(5, "int32")]
    check(built(own, *sizes, dtype), arrays, (sum(queries), heads, d_v), dtype, (causal, mode, 1.0, 1e4, d_qk**-0.5))


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("window", [None, 30, 16, 100])
@pytest.mark.parametrize(("sizes", "dtype"), [((3, 9, 64), "float32"), ((2, 4, 40), "float16")])
def test_past(sizes, dtype, window, causal):
    groups, heads, d = sizes
    queries = [70, 1, 3, 66]
    info = np.array([5, 16, 9, 1], "int32") if window is None else np.array([[5, 16, 9, 1], [20, 0, 3, 0], [4, 0, 0, 0]], "int32")
    arrays = [drawn((sum(queries), heads, d), dtype), tokens(queries), drawn((PAGES, 2, groups, PAGE, d), dtype)]
    arrays += [np.array([0, 12, 13, 13, 20], "int32"), np.random.default_rng(1).permutation(PAGES)[:20].astype("int32"), info]
    arrays += [np.zeros(4, "int32"), np.arange(sum(queries), dtype="int32")]
    check(built(past, *sizes, dtype, window), arrays, (sum(queries), heads, d), dtype, (causal, 0, 1.0, 1e4, d**-0.5))


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize(("sizes", "dtype"), [((3, 9, 64), "float32"), ((1, 4, 40), "float16"), ((2, 2, 10), "float32")])
def test_decode(sizes, dtype, sliding, mode):
    groups, heads, d = sizes
    info = np.array([[5, 16, 9], [20, 0, 3], [4, 0, 0]], "int32") if sliding else np.array([5, 16, 9], "int32")
    arrays = [drawn((3, heads, d), dtype), drawn((PAGES, 2, groups, PAGE, d), dtype), np.array([0, 20, 20, 30], "int32")]
    arrays += [np.random.default_rng(1).permutation(PAGES)[:30].astype("int32"), info, np.array([0, 0, 3], "int32")]
    arrays += [np.array([300, 5, 150], "int32")]
    check(built(decode, *sizes, dtype, sliding), arrays, (3, heads, d), dtype, (mode, 1.0, 1e4, d**-0.5))


def test_what_is_no_number_stays_in_its_row():
    arrays = [drawn((6, 2, 16), "float32"), tokens([6]), drawn((6, 2, 16), "float32"), drawn((6, 2, 16), "float32"), tokens([6])]
    arrays += [np.arange(6, dtype="int32"), np.zeros(1, "int32")]
    arrays[2][4, 0, 3] = np.nan
    for kernel in built(own, 2, 2, 16, 16, "float32")[1:]:
        output, _ = results(kernel, arrays, (6, 2, 16), "float32", (1, 0, 1.0, 1e4, 0.25))
        np.testing.assert_array_equal(np.isnan(output).any(-1), [[False, False]] * 4 + [[True, False]] * 2)


@pytest.mark.parametrize(
    "kernel",
    [own(2, 4, 32, 32, "float32", SCALED), past(2, 4, 32, "float32", 48, SCALED), decode(2, 4, 32, "float32", True, SCALED)],
)
def test_rotary_embeddings_of_any_kind(kernel):
    assert replaced(kernel) is not None


@pytest.mark.parametrize("kernel", [own(2, 4, 32, 32, "float32"), past(2, 4, 32, "float32"), decode(2, 4, 32, "float32")])
def test_another_kernel_stays(kernel):
    changed = capped(kernel, 30.0, "a test")
    assert not tvm_ffi.structural_equal(changed, kernel) and replaced(changed) is None
