"""Attention of one query of each sequence on CPUs for paged KV caches, as TVM's runtime calls it."""

from __future__ import annotations

import math
from functools import lru_cache

from tvm import tirx
from tvm.relax.frontend.nn.llm import _kernel_common as common
from tvm.script import tirx as T  # pyright: ignore[reportMissingModuleSource]

from .attention import LOG2_E, NOTHING

_LANES = 16


@lru_cache
def decode(heads: int, groups: int, d: int, dtype: str, sliding: bool, page: int, parallel: bool) -> tirx.PrimFunc:
    """Attention of one query (heads, d) of each sequence to the pages (pages, 2, groups, page, d) of its keys and values."""
    loop = T.parallel if parallel else T.serial
    shared, lanes = heads // groups, math.gcd(d, _LANES)

    @T.prim_func(s_tir=True)
    def decode_attention(
        var_q: T.handle,
        var_pages: T.handle,
        var_page_indptr: T.handle,
        var_page_values: T.handle,
        var_lengths: T.handle,
        var_k_offset: T.handle,
        var_q_position: T.handle,
        var_output: T.handle,
        var_lse: T.handle,
        rotary_mode: T.int32,
        rope_scale: T.float32,
        rope_theta: T.float32,
        sm_scale: T.float32,
    ):
        T.func_attr({"tirx.is_scheduled": True})
        batch, listed, count = T.int32(), T.int32(), T.int32()
        at_indptr, at_values, at_offset, at_position, at_lengths = T.int32(), T.int32(), T.int32(), T.int32(), T.int32()
        q = T.match_buffer(var_q, (batch, heads, d), dtype)
        pages = T.match_buffer(var_pages, (count, 2, groups, page, d), dtype)
        page_indptr = T.match_buffer(var_page_indptr, (batch + 1,), "int32", elem_offset=at_indptr)
        page_values = T.match_buffer(var_page_values, (listed,), "int32", elem_offset=at_values)
        T.match_buffer(var_k_offset, (batch,), "int32", elem_offset=at_offset)
        T.match_buffer(var_q_position, (batch,), "int32", elem_offset=at_position)
        output = T.match_buffer(var_output, (batch, heads, d), dtype)
        lse = T.match_buffer(var_lse, (batch, heads), "float32")
        lengths = common._declare_length_info(var_lengths, batch, sliding, at_lengths)
        for h in loop(heads):
            with T.sblock("head"):
                T.reads()
                T.writes()
                length = T.sblock_alloc_buffer((1,), "int32")
                sums = T.sblock_alloc_buffer((lanes,), "float32")
                total = T.sblock_alloc_buffer((d,), "float32")
                state = T.sblock_alloc_buffer((4,), "float32")  # the largest score, the sum of exponentials, this score, what to scale by
                for b in range(batch):
                    length[0] = 0
                    if page_indptr[b] < page_indptr[b + 1]:
                        length[0] = common._get_kv_chunk_len(page_indptr[b + 1] - page_indptr[b], page, b, lengths, sliding)
                    state[0] = T.float32(NOTHING)
                    state[1] = T.float32(1)
                    for i in range(d):
                        total[i] = T.float32(0)
                    for row in range(length[0]):
                        slot: T.let[T.int32] = common._get_seq_offset(row, b, lengths, sliding)
                        at: T.let[T.int32] = page_values[page_indptr[b] + slot // page]
                        for lane in T.vectorized(lanes):
                            sums[lane] = T.float32(0)
                        for i in T.unroll(d // lanes):
                            for lane in T.vectorized(lanes):
                                sums[lane] = sums[lane] + T.cast(q[b, h, i * lanes + lane], "float32") * T.cast(
                                    pages[at, 0, h // shared, slot % page, i * lanes + lane], "float32"
                                )
                        state[2] = T.float32(0)
                        for lane in T.unroll(lanes):
                            state[2] = state[2] + sums[lane]
                        state[2] = state[2] * (sm_scale * T.float32(LOG2_E))
                        state[3] = T.exp2(state[0] - T.max(state[0], state[2]))
                        state[0] = T.max(state[0], state[2])
                        state[2] = T.exp2(state[2] - state[0])
                        state[1] = state[1] * state[3] + state[2]
                        for i in T.unroll(d // lanes):
                            for lane in T.vectorized(lanes):
                                total[i * lanes + lane] = total[i * lanes + lane] * state[3] + state[2] * T.cast(
                                    pages[at, 1, h // shared, slot % page, i * lanes + lane], "float32"
                                )
                    for i in range(d):
                        output[b, h, i] = T.cast(total[i] / state[1], dtype)
                    lse[b, h] = state[0] + T.log2(state[1])

    return decode_attention
