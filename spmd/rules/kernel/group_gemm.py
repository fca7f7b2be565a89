"""The scheduled matrix products of a mixture of experts, as MLC-LLM makes them: the rows of each expert times its weight.

Rows ``x[indptr[e]:indptr[e + 1]]`` are those of expert e, and ``out[row] = w[e] @ x[row]``. Thread blocks walk over tiles whose number
the data tell, so that nothing can be read off the loops. The kernel is therefore made again from its sizes: where that is the module's
kernel to the letter, what it computes is known, and the one for a worker's sizes is made in the same way.

The structure is that of MLC-LLM's kernels (``python/mlc_llm/op/moe_matmul.py``, Apache-2.0): a kernel that is to equal theirs has no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import tvm
import tvm_ffi
from tvm import tirx

from spmd.ir.expressions import static

from .model import Unreadable

_NAMES = ("group_gemm", "dequantize_group_gemm")
ROWS, WIDTH, DEPTH = 8, 128, 32
"""A tile: rows of x, features of the result, and features of x that are summed at a time."""


@dataclass(frozen=True)
class GroupGemm:
    """The sizes and dtypes of one."""

    experts: int
    out: int
    depth: int
    """Features of x, a multiple of `DEPTH`."""
    dtype: str
    words: int = 0
    """Elements of the packed weight for each feature of the result; 0 where it is not packed."""
    groups: int = 0
    """Scales for each feature of the result."""
    storage: str = ""

    @property
    def unit(self) -> int:
        """Features of x that stay together: those of one scale, or of one step of the sum."""
        return self.depth // self.groups if self.groups else DEPTH


def is_group_gemm(name: str, func: tirx.PrimFunc) -> bool:
    """Whether a scheduled kernel has the name of one: those of one module differ by a number."""
    return name.rstrip("0123456789") in _NAMES and bool(func.attrs and func.attrs.get("tirx.is_scheduled"))


def read_group_gemm(func: tirx.PrimFunc) -> GroupGemm:
    """The sizes of the kernel `func`. Raises `Unreadable` where it is another one than MLC-LLM makes for these sizes."""
    params = list(func.params)
    if len(params) not in (4, 5) or not all(isinstance(p.ty, tirx.BufferType) for p in params):
        raise Unreadable("it is scheduled, and has other arguments than a product of groups")
    found = _sizes([[static(size) for size in p.ty.shape] for p in params], [str(p.ty.dtype.dtype) for p in params])
    if found is None:
        raise Unreadable("it is scheduled, and its arguments have other shapes than those of a product of groups")
    made = make_group_gemm(found)
    if not tvm_ffi.structural_equal(made.with_attrs(dict(func.attrs)), func, map_free_vars=True):
        raise Unreadable("it is scheduled, and is not the product of groups that MLC-LLM makes for its sizes")
    return found


def _sizes(shapes: Sequence[Sequence[int | None]], dtypes: Sequence[str]) -> GroupGemm | None:
    x, w, *scale, indptr, out = shapes
    if [len(s) for s in shapes] != [2, 3, *[3] * len(scale), 1, 2]:
        return None
    depth, experts, features = x[1], w[0], w[1]
    if depth is None or experts is None or features is None or depth % DEPTH or not depth:
        return None
    if out[1] != features or indptr[0] != experts + 1 or dtypes[-2] != "int32" or dtypes[0] != dtypes[-1]:
        return None
    if not scale:
        return GroupGemm(experts, features, depth, dtypes[0]) if w[2] == depth and dtypes[1] == dtypes[0] else None
    words, groups = w[2], scale[0][2]
    if not words or not groups or depth % groups or words % groups or (depth // groups) % DEPTH or scale[0][:2] != w[:2]:
        return None
    bits = tvm.DataType(dtypes[1]).bits
    each = depth // words if depth % words == 0 else 0
    if not each or bits % each or not dtypes[1].startswith("uint") or dtypes[2] != dtypes[0]:
        return None
    return GroupGemm(experts, features, depth, dtypes[0], words, groups, dtypes[1])


@lru_cache(maxsize=64)
def make_group_gemm(g: GroupGemm) -> tirx.PrimFunc:
    """The kernel for these sizes, scheduled for GPUs."""
    tiles = -(-g.out // WIDTH)
    zero = f"T.{g.dtype}(0.0)"
    if g.words:
        each = g.depth // g.words
        bits = tvm.DataType(g.storage).bits // each
        packed, scales = f"{g.experts}, {g.out}, {g.words}", f"{g.experts}, {g.out}, {g.groups}"
        params = f'w: T.Buffer(({packed}), "{g.storage}"), scale: T.Buffer(({scales}), "{g.dtype}")'
        regions = [f"X[0:B, 0:{g.depth}]", f"w[0:{g.experts}, 0:{g.out}, 0:{g.words}]", f"scale[0:{g.experts}, 0:{g.out}, 0:{g.groups}]"]
        regions.append(f"indptr[0:{g.experts + 1}]")
        tile = [f"w[e, n_offset:n_offset + {WIDTH}, 0:{g.words}]", f"scale[e, n_offset:n_offset + {WIDTH}, 0:{g.groups}]"]
        word, factor = f"w[e, n_offset + i, j // {each}]", f"scale[e, n_offset + i, j // {g.unit}]"
        shift = f'T.Cast("{g.storage}", j % {each} * {bits})'
        level = f'T.Cast("{g.dtype}", T.bitwise_and(T.shift_right({word}, {shift}), T.{g.storage}({2**bits - 1})))'
        weight = f"({level} - T.{g.dtype}({2 ** (bits - 1) - 1}.0)) * {factor}"
        reads = f"n_offset.source[0], {word}, e.source[0], {factor}"
        sums, product, result = "float32", "X_tile[i, k] * W_tile[j, k]", "O_tile[i, j]"
        if g.dtype != sums:
            product, result = f'T.Cast("{sums}", {product})', f'T.Cast("{g.dtype}", {result})'
        offsets = (f"num_tiles // {tiles} * {ROWS}", f"num_tiles % {tiles} * {WIDTH}")
    else:
        params = f'w: T.Buffer(({g.experts}, {g.out}, {g.depth}), "{g.dtype}")'
        regions = [f"indptr[0:{g.experts + 1}]", f"X[0:B, 0:{g.depth}]", f"w[0:{g.experts}, 0:{g.out}, 0:{g.depth}]"]
        tile = [f"w[e, n_offset:n_offset + {WIDTH}, 0:{g.depth}]"]
        weight = "w[e, n_offset + i, j]"
        reads = f"n_offset.source[0], {weight}, e.source[0]"
        sums, product, result = g.dtype, "X_tile[i, k] * W_tile[j, k]", "O_tile[i, j]"
        offsets = (f"{ROWS} * (num_tiles // {tiles})", f"{WIDTH} * (num_tiles % {tiles})")
    text = _TEXT.format(
        params=params,
        regions=", ".join(regions),
        tile=", ".join(tile),
        weight=weight,
        reads=reads,
        sums=sums,
        product=product,
        result=result,
        m_offset=offsets[0],
        n_offset=offsets[1],
        zero=zero,
        start=f"T.{sums}(0.0)",
        dtype=g.dtype,
        experts=g.experts,
        bounds=g.experts + 1,
        out=g.out,
        depth=g.depth,
        tiles=tiles,
        steps=g.depth // DEPTH,
        at="step * 32 + " if g.depth > DEPTH else "",
        unrolled='"pragma_auto_unroll_max_step": 64, "pragma_unroll_explicit": 1',
    )
    return tvm.script.from_source(text)


_TEXT = """
# from tvm.script import tirx as T
@T.prim_func(private=True, s_tir=True)
def main(X: T.Buffer(("B", {depth}), "{dtype}"), {params}, indptr: T.Buffer(({bounds},), "int32"), out: T.Buffer((B, {out}), "{dtype}")):
    B = T.int32()
    T.func_attr({{"tirx.is_scheduled": 1, "tirx.noalias": True}})
    for block in T.thread_binding(1024, thread="blockIdx.x"):
        with T.sblock("CTA"):
            bx = T.axis.spatial(1024, block)
            T.reads({regions})
            T.writes(out[0:B, 0:{out}])
            sum = T.sblock_alloc_buffer((2,), "int32", scope="local")
            row = T.sblock_alloc_buffer((2,), "int32", scope="local")
            cur_e = T.sblock_alloc_buffer((1,), "int32", scope="local")
            tile_id = T.sblock_alloc_buffer((1,), "int32", scope="local")
            sum[0] = 0
            sum[1] = (indptr[1] - indptr[0] + 8 - 1) // 8 * {tiles}
            row[0] = 0
            row[1] = indptr[1] - indptr[0]
            cur_e[0] = 0
            tile_id[0] = bx
            while T.tvm_thread_invariant(cur_e[0] < {experts}):
                while sum[1] <= tile_id[0] and cur_e[0] < {experts}:
                    cur_e[0] = cur_e[0] + 1
                    if cur_e[0] < {experts}:
                        e: T.int32 = cur_e[0]
                        delta: T.int32 = indptr[e + 1] - indptr[e]
                        sum[0] = sum[1]
                        sum[1] = sum[1] + (delta + 8 - 1) // 8 * {tiles}
                        row[0] = row[1]
                        row[1] = row[1] + delta
                T.tvm_storage_sync("shared", T.bool(False), -1)
                if T.tvm_thread_invariant(cur_e[0] < {experts}):
                    e: T.int32 = cur_e[0]
                    num_tiles: T.int32 = tile_id[0] - sum[0]
                    m_offset: T.int32 = {m_offset} + row[0]
                    n_offset: T.int32 = {n_offset}
                    with T.sblock("gemm"):
                        T.reads(row[1], X[m_offset:m_offset + 8, 0:{depth}], {tile})
                        T.writes(out[m_offset:m_offset + 8, n_offset:n_offset + 128])
                        X_tile = T.sblock_alloc_buffer((8, {depth}), "{dtype}", scope="shared")
                        W_tile = T.sblock_alloc_buffer((128, {depth}), "{dtype}", scope="shared")
                        O_tile = T.sblock_alloc_buffer((8, 128), "{sums}", scope="local")
                        for ty in T.thread_binding(32, thread="threadIdx.y"):
                            for tx in T.thread_binding(8, thread="threadIdx.x", annotations={{{unrolled}}}):
                                for j1, i1 in T.grid(4, 1):
                                    for i2 in T.vectorized(1):
                                        with T.sblock("compute_init"):
                                            i = T.axis.spatial(8, tx + i1 + i2)
                                            j = T.axis.spatial(128, ty * 4 + j1)
                                            T.reads()
                                            T.writes(O_tile[i, j])
                                            O_tile[i, j] = {start}
                                for step in range({steps}):
                                    for a in T.thread_binding(32, thread="threadIdx.y"):
                                        for b in T.thread_binding(8, thread="threadIdx.x"):
                                            for c in range(1):
                                                for d in T.vectorized(1):
                                                    with T.sblock("X_shared"):
                                                        i = T.axis.spatial(8, (a * 8 + b + c + d) // 32)
                                                        j = T.axis.spatial({depth}, {at}(a * 8 + b + c + d) % 32)
                                                        T.reads(m_offset.source[0], row[1], X[m_offset + i, j])
                                                        T.writes(X_tile[i, j])
                                                        X_tile[i, j] = T.if_then_else(m_offset + i < row[1], X[m_offset + i, j], {zero})
                                    for a in T.thread_binding(32, thread="threadIdx.y"):
                                        for b in T.thread_binding(8, thread="threadIdx.x"):
                                            for c in range(16):
                                                for d in T.vectorized(1):
                                                    with T.sblock("W_shared"):
                                                        i = T.axis.spatial(128, (a * 128 + b * 16 + c + d) // 32)
                                                        j = T.axis.spatial({depth}, {at}(a * 128 + b * 16 + c + d) % 32)
                                                        T.reads({reads})
                                                        T.writes(W_tile[i, j])
                                                        W_tile[i, j] = T.if_then_else(n_offset + i < {out}, {weight}, {zero})
                                    for k1, j1, i1 in T.grid(32, 4, 1):
                                        for i2 in T.vectorized(1):
                                            with T.sblock("compute_update"):
                                                i = T.axis.spatial(8, tx + i1 + i2)
                                                j = T.axis.spatial(128, ty * 4 + j1)
                                                k = T.axis.reduce({depth}, step * 32 + k1)
                                                T.reads(O_tile[i, j], X_tile[i, k], W_tile[j, k])
                                                T.writes(O_tile[i, j])
                                                O_tile[i, j] = O_tile[i, j] + {product}
                                for i1, j1 in T.grid(1, 4):
                                    for j2 in T.vectorized(1):
                                        with T.sblock("store"):
                                            i = T.axis.spatial(8, tx + i1)
                                            j = T.axis.spatial(128, ty * 4 + j1 + j2)
                                            T.reads(m_offset.source[0], row[1], n_offset.source[0], O_tile[i, j])
                                            T.writes(out[m_offset + i, n_offset + j])
                                            if m_offset + i < row[1] and n_offset + j < {out}:
                                                out[m_offset + i, n_offset + j] = {result}
                tile_id[0] = tile_id[0] + 1024
"""
