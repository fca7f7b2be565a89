"""Attention to cached tokens on CPUs, compiled without optimization, which hides what is read before it is written."""

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.relax.frontend.nn.llm.kv_cache import _attention_decode_cpu, _attention_prefill_cpu, tree_attn_with_paged_kv_cache_cpu

from spmd.schedules.cpu.unwritten import ReadWritten

PAGE, KEPT, NEW, HEADS, GROUPS, SIZE, SCALE = 16, 23, 4, 4, 2, 8, 0.35
UNOPTIMIZED = {"kind": "llvm", "opt-level": 0}


def prefill(window: int) -> tirx.PrimFunc:
    return _attention_prefill_cpu(GROUPS, HEADS, SIZE, "float32", window > 0, {}, sliding_window_size=window)


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The result for each query and head, and the logarithm of its sum; with a window, query n sees the last ``window - 1 - n`` keys."""
    scores = np.einsum("nhd,khd->nhk", q, k.repeat(HEADS // GROUPS, 1)) * SCALE
    if window:
        hidden = np.arange(KEPT) < np.maximum(KEPT - np.maximum(window - np.arange(NEW) - 1, 0), 0)[:, None]
        scores = np.where(hidden[:, None], -np.inf, scores)
    sums = np.exp(scores).sum(-1)
    return np.einsum("nhk,khd->nhd", np.exp(scores) / sums[..., None], v.repeat(HEADS // GROUPS, 1)), np.log2(sums)


@pytest.mark.parametrize("window", [0, 7, 40])
def test_attention_to_cached_tokens(window):
    """With a window of 7 the first 17 of 23 keys are masked: no query has a maximum before."""
    random = np.random.default_rng(0)
    q, k, v = (
        random.standard_normal((count, heads, SIZE)).astype("float32") for count, heads in ((NEW, HEADS), (KEPT, GROUPS), (KEPT, GROUPS))
    )
    pages = np.zeros((3, 2, GROUPS, PAGE, SIZE), "float32")
    for at in range(KEPT):
        pages[(2, 0)[at // PAGE], :, :, at % PAGE] = k[at], v[at]
    lengths = [[KEPT - PAGE], [0], [0]] if window else [KEPT - PAGE]
    numbers = [np.array(x, "int32") for x in ([0, NEW], [0, 2], [2, 0], lengths, [0], np.arange(KEPT, KEPT + NEW))]
    first, page_first, values, length, offset, positions = map(tvm.runtime.tensor, numbers)
    out, lse = (tvm.runtime.tensor(np.full(shape, np.nan, "float32")) for shape in ((NEW, HEADS, SIZE), (NEW, HEADS)))
    mod = ReadWritten()(tvm.IRModule({"main": prefill(window).with_attr("global_symbol", "main")}))
    with tvm.transform.PassContext(opt_level=0):
        made = tvm.compile(mod, target=UNOPTIMIZED)
    given = (tvm.runtime.tensor(q), first, tvm.runtime.tensor(pages), page_first, values, length, offset, positions)
    made["main"](*given, out, lse, int(window > 0), 0, 1.0, 1e4, SCALE)
    for found, wanted in zip((out, lse), attended(q, k, v, window), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_rewritten():
    """Two places of a kernel, and none of one that reads what it wrote."""
    tree = tree_attn_with_paged_kv_cache_cpu(GROUPS, HEADS, SIZE, "float32", {})
    for kernel in (prefill(0), prefill(7), tree):
        mod = tvm.IRModule({"main": kernel})
        assert "scale_O[d_idx]" in mod.script() and mod.script().count("new_m[0] =") == 1
        made = ReadWritten()(mod).script()
        assert "scale_O[d_idx]" not in made and "new_m[0] = m_val[0]" in made
    sound = tvm.IRModule({"main": _attention_decode_cpu(GROUPS, HEADS, SIZE, "float32", False, {})})
    assert ReadWritten()(sound)["main"].same_as(sound["main"])
