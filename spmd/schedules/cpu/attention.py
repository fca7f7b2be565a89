"""Attention of many queries on CPUs for paged KV caches, as TVM's runtime calls it: heads on all cores, features in vectors.

TVM's own kernels go one number at a time, on one core. Both begin with a sum of 1 at a score of -50000, and leave logarithms to base 2.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from tvm import tirx
from tvm.relax.frontend.nn.llm import _kernel_common as common
from tvm.script import tirx as T  # pyright: ignore[reportMissingModuleSource]

_ROWS, _KEYS, _TILE = 64, 64, 4
"""Queries and keys of which the scores are held at a time, and queries that share what is loaded."""
_LANES = 16
NOTHING = -5e4
"""The score that a sum of exponentials begins with."""
LOG2_E = math.log2(math.e)


def exp2(x: Any) -> Any:
    """2 to the power of `x`, in float32, without a call: an error of some 1e-7; 0 below 2**-126."""
    whole = T.floor(x + T.float32(0.5))
    rest = x - whole
    value = T.float32(math.log(2) ** 7 / math.factorial(7))
    for power in range(6, -1, -1):
        value = value * rest + T.float32(math.log(2) ** power / math.factorial(power))
    bits = T.shift_left(T.cast(whole, "int32") + 127, 23)
    return T.Select(x < T.float32(-126), T.float32(0), value * T.reinterpret("float32", bits))


def _between(key: Any, low: Any, high: Any) -> Any:
    return tirx.And(key >= low, key < high)


def _memory(d_qk: int, d_v: int) -> tuple[Any, ...]:
    """What the macros of `_blocks` compute in, for one head, in the order in which `attend` takes it."""
    shapes = [(_ROWS, d_qk), (d_qk, _KEYS), (_KEYS, d_v), (_ROWS, _KEYS), (_ROWS, d_v), (_ROWS, 2), (_TILE, _LANES), (_LANES,), (2,)]
    return tuple(T.sblock_alloc_buffer(shape, "float32") for shape in shapes)


def _blocks(d_qk: int, d_v: int) -> tuple[Any, Any, Any]:
    """Macros for up to `_ROWS` queries of one head: what they begin with, one chunk of keys and values, and the results.

    `state` has the largest score and the sum of exponentials of each query. Query `r` sees the keys from ``first + r * first_step`` on,
    and before ``end + r * end_step``, as far as there are any in the sequence of `length`.
    """
    lanes = math.gcd(d_v, _LANES)

    @T.macro
    def begin(queries: Any, total: Any, state: Any, q: Any, at: Any, rows: Any, h: Any, sm_scale: Any):
        for r in range(_ROWS):
            state[r, 0] = T.float32(NOTHING)
            state[r, 1] = T.float32(1)
            for d in range(d_v):
                total[r, d] = T.float32(0)
            for d in range(d_qk):
                queries[r, d] = T.cast(q[at + T.min(r, rows - 1), h, d], "float32") * (sm_scale * T.float32(LOG2_E))

    @T.macro
    def attend(
        queries: Any,
        turned: Any,
        values: Any,
        scores: Any,
        total: Any,
        state: Any,
        tile: Any,
        part: Any,
        best: Any,
        rows: Any,
        length: Any,
        chunk: Any,
        first: Any,
        first_step: Any,
        end: Any,
        end_step: Any,
    ):
        for r, j in T.grid(T.ceildiv(rows, _TILE), _KEYS // _LANES):
            for i in T.unroll(_TILE):
                for lane in T.vectorized(_LANES):
                    tile[i, lane] = T.float32(0)
            for d in range(d_qk):
                for i in T.unroll(_TILE):
                    for lane in T.vectorized(_LANES):
                        tile[i, lane] = tile[i, lane] + queries[r * _TILE + i, d] * turned[d, j * _LANES + lane]
            for i in T.unroll(_TILE):
                for lane in T.vectorized(_LANES):
                    scores[r * _TILE + i, j * _LANES + lane] = tile[i, lane]
        for r in range(T.ceildiv(rows, _TILE) * _TILE):
            low: T.let[T.int32] = T.max(first + r * first_step, 0) - chunk * _KEYS
            high: T.let[T.int32] = T.min(end + r * end_step, length) - chunk * _KEYS
            for lane in T.vectorized(_LANES):
                part[lane] = T.float32(NOTHING)
            for j in range(_KEYS // _LANES):
                for lane in T.vectorized(_LANES):
                    part[lane] = T.max(
                        part[lane],
                        T.Select(_between(j * _LANES + lane, low, high), scores[r, j * _LANES + lane], T.float32(NOTHING)),
                    )
            best[0] = state[r, 0]
            for lane in T.unroll(_LANES):
                best[0] = T.max(best[0], part[lane])
            for lane in T.vectorized(_LANES):
                part[lane] = T.float32(0)
            for j in range(_KEYS // _LANES):
                for lane in T.vectorized(_LANES):
                    scores[r, j * _LANES + lane] = T.Select(
                        _between(j * _LANES + lane, low, high), exp2(scores[r, j * _LANES + lane] - best[0]), T.float32(0)
                    )
                for lane in T.vectorized(_LANES):
                    part[lane] = part[lane] + scores[r, j * _LANES + lane]
            best[1] = exp2(state[r, 0] - best[0])
            state[r, 0] = best[0]
            state[r, 1] = state[r, 1] * best[1]
            for lane in T.unroll(_LANES):
                state[r, 1] = state[r, 1] + part[lane]
            for d in range(d_v):
                total[r, d] = total[r, d] * best[1]
        for r, d in T.grid(T.ceildiv(rows, _TILE), d_v // lanes):
            for i in T.unroll(_TILE):
                for lane in T.vectorized(lanes):
                    tile[i, lane] = total[r * _TILE + i, d * lanes + lane]
            for j in range(T.min(length - chunk * _KEYS, _KEYS)):
                for i in T.unroll(_TILE):
                    for lane in T.vectorized(lanes):
                        tile[i, lane] = tile[i, lane] + scores[r * _TILE + i, j] * values[j, d * lanes + lane]
            for i in T.unroll(_TILE):
                for lane in T.vectorized(lanes):
                    total[r * _TILE + i, d * lanes + lane] = tile[i, lane]

    @T.macro
    def end(total: Any, state: Any, output: Any, lse: Any, at: Any, rows: Any, h: Any, dtype: Any):
        for r in range(rows):
            for d in range(d_v):
                output[at + r, h, d] = T.cast(total[r, d] / state[r, 1], dtype)
            lse[at + r, h] = state[r, 0] + T.log2(state[r, 1])

    return begin, attend, end


@lru_cache
def own(heads: int, groups: int, d_qk: int, d_v: int, dtype: str, parallel: bool) -> tirx.PrimFunc:
    """Attention of the queries (tokens, heads, d_qk) of several sequences to keys and values (tokens, groups, .) beside them."""
    loop = T.parallel if parallel else T.serial
    shared = heads // groups
    begin, attend, end = _blocks(d_qk, d_v)

    @T.prim_func(s_tir=True)
    def ragged_attention(
        var_q: T.handle,
        var_q_indptr: T.handle,
        var_k: T.handle,
        var_v: T.handle,
        var_kv_indptr: T.handle,
        var_q_position: T.handle,
        var_k_offset: T.handle,
        var_output: T.handle,
        var_lse: T.handle,
        causal: T.int32,
        rotary_mode: T.int32,
        rope_scale: T.float32,
        rope_theta: T.float32,
        sm_scale: T.float32,
    ):
        T.func_attr({"tirx.is_scheduled": True})
        batch, tokens, keys = T.int32(), T.int32(), T.int32()
        at_q, at_kv, at_position, at_offset = T.int32(), T.int32(), T.int32(), T.int32()
        q = T.match_buffer(var_q, (tokens, heads, d_qk), dtype)
        q_indptr = T.match_buffer(var_q_indptr, (batch + 1,), "int32", elem_offset=at_q)
        k = T.match_buffer(var_k, (keys, groups, d_qk), dtype)
        v = T.match_buffer(var_v, (keys, groups, d_v), dtype)
        kv_indptr = T.match_buffer(var_kv_indptr, (batch + 1,), "int32", elem_offset=at_kv)
        T.match_buffer(var_q_position, (tokens,), "int32", elem_offset=at_position)
        T.match_buffer(var_k_offset, (batch,), "int32", elem_offset=at_offset)
        output = T.match_buffer(var_output, (tokens, heads, d_v), dtype)
        lse = T.match_buffer(var_lse, (tokens, heads), "float32")
        for h in loop(heads):
            with T.sblock("head"):
                T.reads()
                T.writes()
                queries, turned, values, scores, total, state, tile, part, best = _memory(d_qk, d_v)
                for b, block in T.grid(batch, T.ceildiv(tokens, _ROWS)):
                    if block * _ROWS < q_indptr[b + 1] - q_indptr[b]:
                        rows: T.let[T.int32] = T.min(q_indptr[b + 1] - q_indptr[b] - block * _ROWS, _ROWS)
                        at: T.let[T.int32] = q_indptr[b] + block * _ROWS
                        length: T.let[T.int32] = kv_indptr[b + 1] - kv_indptr[b]
                        step: T.let[T.int32] = T.if_then_else(causal > 0, 1, 0)
                        seen: T.let[T.int32] = length - step * (q_indptr[b + 1] - q_indptr[b] - block * _ROWS - 1)
                        begin(queries, total, state, q, at, rows, h, sm_scale)
                        for chunk in range(T.ceildiv(T.min(seen + (rows - 1) * step, length), _KEYS)):
                            for j, d in T.grid(_KEYS, d_qk):
                                turned[d, j] = T.cast(k[kv_indptr[b] + T.min(chunk * _KEYS + j, length - 1), h // shared, d], "float32")
                            for j, d in T.grid(_KEYS, d_v):
                                values[j, d] = T.cast(v[kv_indptr[b] + T.min(chunk * _KEYS + j, length - 1), h // shared, d], "float32")
                            attend(queries, turned, values, scores, total, state, tile, part, best, rows, length, chunk, 0, 0, seen, step)
                        end(total, state, output, lse, at, rows, h, dtype)

    return ragged_attention


@lru_cache
def past(heads: int, groups: int, d: int, dtype: str, window: int | None, page: int, parallel: bool) -> tirx.PrimFunc:
    """Attention of the queries (tokens, heads, d) of several sequences to the pages (pages, 2, groups, page, d) of what these have cached.

    window: the tokens that a query sees, where the cache is one of sliding windows.
    """
    loop = T.parallel if parallel else T.serial
    shared, sliding = heads // groups, window is not None
    begin, attend, end = _blocks(d, d)

    @T.prim_func(s_tir=True)
    def paged_attention(
        var_q: T.handle,
        var_q_indptr: T.handle,
        var_pages: T.handle,
        var_page_indptr: T.handle,
        var_page_values: T.handle,
        var_lengths: T.handle,
        var_k_offset: T.handle,
        var_q_position: T.handle,
        var_output: T.handle,
        var_lse: T.handle,
        causal: T.int32,
        rotary_mode: T.int32,
        rope_scale: T.float32,
        rope_theta: T.float32,
        sm_scale: T.float32,
    ):
        T.func_attr({"tirx.is_scheduled": True})
        batch, tokens, listed, count = T.int32(), T.int32(), T.int32(), T.int32()
        at_q, at_indptr, at_values, at_offset, at_position, at_lengths = T.int32(), T.int32(), T.int32(), T.int32(), T.int32(), T.int32()
        q = T.match_buffer(var_q, (tokens, heads, d), dtype)
        q_indptr = T.match_buffer(var_q_indptr, (batch + 1,), "int32", elem_offset=at_q)
        pages = T.match_buffer(var_pages, (count, 2, groups, page, d), dtype)
        page_indptr = T.match_buffer(var_page_indptr, (batch + 1,), "int32", elem_offset=at_indptr)
        page_values = T.match_buffer(var_page_values, (listed,), "int32", elem_offset=at_values)
        T.match_buffer(var_k_offset, (batch,), "int32", elem_offset=at_offset)
        T.match_buffer(var_q_position, (tokens,), "int32", elem_offset=at_position)
        output = T.match_buffer(var_output, (tokens, heads, d), dtype)
        lse = T.match_buffer(var_lse, (tokens, heads), "float32")
        lengths = common._declare_length_info(var_lengths, batch, sliding, at_lengths)
        for h in loop(heads):
            with T.sblock("head"):
                T.reads()
                T.writes()
                queries, turned, values, scores, total, state, tile, part, best = _memory(d, d)
                cached = T.sblock_alloc_buffer((1,), "int32")
                for b, block in T.grid(batch, T.ceildiv(tokens, _ROWS)):
                    if block * _ROWS < q_indptr[b + 1] - q_indptr[b]:
                        rows: T.let[T.int32] = T.min(q_indptr[b + 1] - q_indptr[b] - block * _ROWS, _ROWS)
                        at: T.let[T.int32] = q_indptr[b] + block * _ROWS
                        cached[0] = 0
                        if page_indptr[b] < page_indptr[b + 1]:
                            cached[0] = common._get_kv_chunk_len(page_indptr[b + 1] - page_indptr[b], page, b, lengths, sliding)
                        length: T.let[T.int32] = cached[0]
                        step: T.let[T.int32] = T.if_then_else(causal > 0, 1, 0)
                        last: T.let[T.int32] = 0 if sliding else step
                        seen: T.let[T.int32] = length - last * (q_indptr[b + 1] - q_indptr[b] - block * _ROWS - 1)
                        since: T.let[T.int32] = T.if_then_else(causal > 0, length - window + block * _ROWS + 1, 0) if sliding else 0
                        begin(queries, total, state, q, at, rows, h, sm_scale)
                        for chunk in range(T.ceildiv(T.min(seen + (rows - 1) * last, length), _KEYS)):
                            for j in range(_KEYS):
                                slot: T.let[T.int32] = common._get_seq_offset(T.min(chunk * _KEYS + j, length - 1), b, lengths, sliding)
                                number: T.let[T.int32] = page_values[page_indptr[b] + slot // page]
                                for i in range(d):
                                    turned[i, j] = T.cast(pages[number, 0, h // shared, slot % page, i], "float32")
                                for i in range(d):
                                    values[j, i] = T.cast(pages[number, 1, h // shared, slot % page, i], "float32")
                            attend(
                                *(queries, turned, values, scores, total, state, tile, part, best),
                                *(rows, length, chunk, since, step if sliding else 0, seen, last),
                            )
                        end(total, state, output, lse, at, rows, h, dtype)

    return paged_attention
