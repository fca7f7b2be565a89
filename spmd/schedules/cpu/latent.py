"""Attention to latent vectors (MLA) in a paged cache on CPUs, for which TVM has no kernels, as TVM's runtime calls them.

The number of heads is a size of the arguments: one kernel serves any part of the heads.
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T  # pyright: ignore[reportMissingModuleSource]

_LANES = 16
_NOTHING = -5e4
"""What TVM's kernels hold for the logarithm of a sum over no token."""


def attend(d_qk: int, d_latent: int, dtype: str, page: int) -> tirx.PrimFunc:
    """Attention of queries (tokens, heads, d_qk) to the pages (pages, page, d_qk) of their sequences, whose first d_latent features are the
    values: results (tokens, heads, d_latent), and logarithms to base 2 of the sums of exponentials (tokens, heads) in float32.
    """
    lanes, scale = math.gcd(d_qk, _LANES), math.log2(math.e)
    out_lanes = math.gcd(d_latent, _LANES)

    @T.prim_func(s_tir=True)
    def latent_attention(
        var_q: T.handle,
        var_q_indptr: T.handle,
        var_pages: T.handle,
        var_page_indptr: T.handle,
        var_page_values: T.handle,
        var_last: T.handle,
        var_output: T.handle,
        var_lse: T.handle,
        causal: T.int32,
        sm_scale: T.float32,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        batch, tokens, heads, listed, count = T.int32(), T.int32(), T.int32(), T.int32(), T.int32()
        at_pages, at_q, at_indptr, at_values, at_last = T.int64(), T.int32(), T.int32(), T.int32(), T.int32()
        q = T.match_buffer(var_q, (tokens, heads, d_qk), dtype)
        q_indptr = T.match_buffer(var_q_indptr, (batch + 1,), "int32", elem_offset=at_q)
        pages = T.match_buffer(var_pages, (count, page, d_qk), dtype, elem_offset=at_pages)
        page_indptr = T.match_buffer(var_page_indptr, (batch + 1,), "int32", elem_offset=at_indptr)
        page_values = T.match_buffer(var_page_values, (listed,), "int32", elem_offset=at_values)
        last = T.match_buffer(var_last, (batch,), "int32", elem_offset=at_last)
        output = T.match_buffer(var_output, (tokens, heads, d_latent), dtype)
        lse = T.match_buffer(var_lse, (tokens, heads), "float32")
        for b, h in T.grid(batch, heads):
            with T.sblock("sequence"):
                T.reads()
                T.writes()
                length = T.sblock_alloc_buffer((1,), "int32")
                sums = T.sblock_alloc_buffer((lanes,), "float32")
                total = T.sblock_alloc_buffer((d_latent,), "float32")
                state = T.sblock_alloc_buffer((4,), "float32")  # the largest score, the sum of exponentials, this score, what to scale by
                length[0] = 0
                if page_indptr[b] < page_indptr[b + 1]:
                    length[0] = (page_indptr[b + 1] - page_indptr[b] - 1) * page + last[b]
                for i in range(q_indptr[b + 1] - q_indptr[b]):
                    state[0] = T.float32(_NOTHING)
                    state[1] = T.float32(1)
                    for d in range(d_latent):
                        total[d] = T.float32(0)
                    for k in range(length[0]):
                        if causal == 0 or k + q_indptr[b + 1] - q_indptr[b] <= length[0] + i:
                            for lane in T.vectorized(lanes):
                                sums[lane] = T.float32(0)
                            for d in range(d_qk // lanes):
                                for lane in T.vectorized(lanes):
                                    sums[lane] = sums[lane] + T.cast(q[q_indptr[b] + i, h, d * lanes + lane], "float32") * T.cast(
                                        pages[page_values[page_indptr[b] + k // page], k % page, d * lanes + lane], "float32"
                                    )
                            state[2] = T.float32(0)
                            for lane in range(lanes):
                                state[2] = state[2] + sums[lane]
                            state[2] = state[2] * sm_scale * T.float32(scale)
                            state[3] = T.exp2(state[0] - T.max(state[0], state[2]))
                            state[0] = T.max(state[0], state[2])
                            state[2] = T.exp2(state[2] - state[0])
                            state[1] = state[1] * state[3] + state[2]
                            for d in range(d_latent // out_lanes):
                                for lane in T.vectorized(out_lanes):
                                    total[d * out_lanes + lane] = total[d * out_lanes + lane] * state[3] + state[2] * T.cast(
                                        pages[page_values[page_indptr[b] + k // page], k % page, d * out_lanes + lane], "float32"
                                    )
                    for d in range(d_latent):
                        output[q_indptr[b] + i, h, d] = T.cast(total[d] / state[1], dtype)
                    lse[q_indptr[b] + i, h] = state[0] + T.log2(state[1])

    return latent_attention


def copy_page(d_qk: int, dtype: str, page: int) -> tirx.PrimFunc:
    """Copies the first vectors of one page into another."""

    @T.prim_func(s_tir=True)
    def copy_latent_page(var_pages: T.handle, source: T.int64, target: T.int64, length: T.int64):
        T.func_attr({"tirx.is_scheduled": True})
        count, at_pages = T.int64(), T.int64()
        pages = T.match_buffer(var_pages, (count, page, d_qk), dtype, elem_offset=at_pages)
        for i, d in T.grid(length, d_qk):
            with T.sblock("copy"):
                T.reads()
                T.writes()
                pages[target, i, d] = pages[source, i, d]

    return copy_latent_page
