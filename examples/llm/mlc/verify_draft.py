"""Trees of guessed tokens checked on a GPU: which of them the model would have drawn, by rejection sampling."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

_THREADS = 256
_NOTHING = 1e-7
"""A sum of probabilities below which there is nothing left to draw from."""


def verify_draft() -> tirx.PrimFunc:
    """A block of threads for each tree. Thread t has the tokens t, t + 256, ... of a row, and no other reads or writes them.

    From the root down, a child is taken where its probability by the model is at least a uniform number times that by the draft; else the
    model's probabilities of its parent become what they have more than the draft's, and the next child is asked. `trees` ends as the last
    node that was taken.
    """

    @T.prim_func(private=True, s_tir=True)
    def kernel(
        var_draft: T.handle,
        var_tokens: T.handle,
        var_model: T.handle,
        var_first: T.handle,
        var_next: T.handle,
        var_uniform: T.handle,
        var_trees: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        nodes, vocab, count = T.int64(), T.int64(), T.int64()
        draft = T.match_buffer(var_draft, (nodes, vocab), "float32")
        tokens = T.match_buffer(var_tokens, (nodes,), "int32")
        model = T.match_buffer(var_model, (nodes, vocab), "float32")
        first = T.match_buffer(var_first, (nodes,), "int32")
        after = T.match_buffer(var_next, (nodes,), "int32")
        uniform = T.match_buffer(var_uniform, (nodes,), "float32")
        trees = T.match_buffer(var_trees, (count,), "int32")
        for block in T.thread_binding(count, thread="blockIdx.x"):
            for t in T.thread_binding(_THREADS, thread="threadIdx.x"):
                with T.sblock("tree"):
                    T.reads()
                    T.writes()
                    at = T.sblock_alloc_buffer((3,), "int32", scope="shared")  # the parent, the child that is asked, whether it is refused
                    sums = T.sblock_alloc_buffer((_THREADS,), "float32", scope="shared")
                    chance = T.sblock_alloc_buffer((1,), "float32", scope="shared")
                    total = T.sblock_alloc_buffer((1,), "float32", scope="shared")
                    here = T.sblock_alloc_buffer((3,), "int32", scope="local")  # the same, as conditions may not read what is shared
                    part = T.sblock_alloc_buffer((2,), "float32", scope="local")
                    if t == 0:
                        at[0] = trees[block]
                        at[1] = first[trees[block]]
                    T.evaluate(T.tvm_storage_sync("shared"))
                    here[0] = at[0]
                    here[1] = at[1]
                    while T.tvm_thread_invariant(here[1] != -1):
                        if tokens[here[1]] % _THREADS == t:
                            chance[0] = model[here[0], tokens[here[1]]]
                        part[0] = T.float32(0)
                        for i in range((vocab + _THREADS - 1) // _THREADS):
                            if i * _THREADS + t < vocab:
                                part[0] = part[0] + T.max(model[here[0], i * _THREADS + t] - draft[here[1], i * _THREADS + t], T.float32(0))
                        sums[t] = part[0]
                        T.evaluate(T.tvm_storage_sync("shared"))
                        if t == 0:
                            part[0] = T.float32(0)
                            for i in range(_THREADS):
                                part[0] = part[0] + sums[i]
                            total[0] = part[0]
                            part[1] = chance[0]
                            if part[1] >= uniform[here[1]] * draft[here[1], tokens[here[1]]] or part[0] < _NOTHING:
                                at[0] = here[1]
                                at[1] = first[here[1]]
                                at[2] = 0
                            else:
                                at[1] = after[here[1]]
                                at[2] = 1
                        T.evaluate(T.tvm_storage_sync("shared"))
                        here[2] = at[2]
                        if here[2] == 1:
                            for i in range((vocab + _THREADS - 1) // _THREADS):
                                if i * _THREADS + t < vocab:
                                    model[here[0], i * _THREADS + t] = (
                                        T.max(model[here[0], i * _THREADS + t] - draft[here[1], i * _THREADS + t], T.float32(0)) / total[0]
                                    )
                        T.evaluate(T.tvm_storage_sync("shared"))
                        here[0] = at[0]
                        here[1] = at[1]
                    if t == 0:
                        trees[block] = here[0]

    return kernel
