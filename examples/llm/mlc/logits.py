"""What MLC-LLM's engine does to logits and probabilities in place, as kernels that it calls by name."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx
from tvm.script import tirx as T

_LEAST = -3.4028234663852886e38
"""The smallest float32."""
_THREADS = 256


def kernels(on_gpu: bool) -> Mapping[str, tirx.PrimFunc]:
    """{name: kernel}: what is done in any order is done by threads on a GPU, and one after another on a CPU."""

    def blocks(count: tirx.Expr) -> object:
        """Whole blocks of threads for so many elements."""
        size = (count + _THREADS - 1) // _THREADS
        return T.thread_binding(size, thread="blockIdx.x") if on_gpu else T.serial(size)

    def threads() -> object:
        return T.thread_binding(_THREADS, thread="threadIdx.x") if on_gpu else T.serial(_THREADS)

    @T.prim_func(s_tir=True)
    def bias(var_logits: T.handle, var_rows: T.handle, var_tokens: T.handle, var_biases: T.handle):
        T.func_attr({"tirx.is_scheduled": True})
        batch, vocab, count = T.int32(), T.int32(), T.int32()
        logits = T.match_buffer(var_logits, (batch, vocab), "float32")
        rows = T.match_buffer(var_rows, (count,), "int32")
        tokens = T.match_buffer(var_tokens, (count,), "int32")
        biases = T.match_buffer(var_biases, (count,), "float32")
        for block in blocks(count):
            for t in threads():
                if block * _THREADS + t < count:
                    i: T.let[T.int32] = block * _THREADS + t
                    logits[rows[i], tokens[i]] = logits[rows[i], tokens[i]] + biases[i]

    @T.prim_func(s_tir=True)
    def penalty(
        var_logits: T.handle, var_rows: T.handle, var_of: T.handle, var_tokens: T.handle, var_counts: T.handle, var_penalties: T.handle
    ):
        """By sequence: what a token that occurs loses, what it loses each time, and what divides it then, or multiplies it below 0."""
        T.func_attr({"tirx.is_scheduled": True})
        batch, vocab, sequences, count = T.int32(), T.int32(), T.int32(), T.int32()
        logits = T.match_buffer(var_logits, (batch, vocab), "float32")
        rows = T.match_buffer(var_rows, (sequences,), "int32")
        of = T.match_buffer(var_of, (count,), "int32")
        tokens = T.match_buffer(var_tokens, (count,), "int32")
        counts = T.match_buffer(var_counts, (count,), "int32")
        penalties = T.match_buffer(var_penalties, (sequences, 3), "float32")
        for block in blocks(count):
            for t in threads():
                if block * _THREADS + t < count:
                    i: T.let[T.int32] = block * _THREADS + t
                    less: T.let[T.float32] = (
                        logits[rows[of[i]], tokens[i]] - penalties[of[i], 0] - T.cast(counts[i], "float32") * penalties[of[i], 1]
                    )
                    logits[rows[of[i]], tokens[i]] = T.Select(less < T.float32(0), less * penalties[of[i], 2], less / penalties[of[i], 2])

    @T.prim_func(s_tir=True)
    def bitmask(var_logits: T.handle, var_rows: T.handle, var_mask: T.handle):
        """Tokens whose bit is 0 get the smallest number; bit j of word i is that of token 32 i + j."""
        T.func_attr({"tirx.is_scheduled": True})
        batch, vocab, count = T.int32(), T.int32(), T.int32()
        logits = T.match_buffer(var_logits, (batch, vocab), "float32")
        rows = T.match_buffer(var_rows, (count,), "int32")
        mask = T.match_buffer(var_mask, (batch, (vocab + 31) // 32), "int32")
        for block in blocks(count * vocab):
            for t in threads():
                if block * _THREADS + t < count * vocab:
                    row: T.let[T.int32] = rows[(block * _THREADS + t) // vocab]
                    token: T.let[T.int32] = (block * _THREADS + t) % vocab
                    if T.bitwise_and(T.shift_right(mask[row, token // 32], token % 32), 1) == 0:
                        logits[row, token] = T.float32(_LEAST)

    @T.prim_func(s_tir=True)
    def scatter(var_source: T.handle, var_rows: T.handle, var_target: T.handle):
        T.func_attr({"tirx.is_scheduled": True})
        batch, size, count = T.int32(), T.int32(), T.int32()
        source = T.match_buffer(var_source, (count, size), "float32")
        rows = T.match_buffer(var_rows, (count,), "int32")
        target = T.match_buffer(var_target, (batch, size), "float32")
        for block in blocks(count * size):
            for t in threads():
                if block * _THREADS + t < count * size:
                    i: T.let[T.int32] = block * _THREADS + t
                    target[rows[i // size], i % size] = source[i // size, i % size]

    @T.prim_func(s_tir=True)
    def gather(var_source: T.handle, var_rows: T.handle, var_target: T.handle):
        T.func_attr({"tirx.is_scheduled": True})
        batch, size, count = T.int32(), T.int32(), T.int32()
        source = T.match_buffer(var_source, (batch, size), "float32")
        rows = T.match_buffer(var_rows, (count,), "int32")
        target = T.match_buffer(var_target, (count, size), "float32")
        for block in blocks(count * size):
            for t in threads():
                if block * _THREADS + t < count * size:
                    i: T.let[T.int32] = block * _THREADS + t
                    target[i // size, i % size] = source[rows[i // size], i % size]

    named = {
        "apply_logit_bias_inplace": bias,
        "apply_penalty_inplace": penalty,
        "apply_bitmask_inplace": bitmask,
        "scatter_probs": scatter,
        "gather_probs": gather,
    }
    return {name: kernel.with_attr("global_symbol", name) for name, kernel in named.items()}
