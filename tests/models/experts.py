"""Mixtures of experts as MLC-LLM exports them: its kernels for the rows of each expert, for GPUs, and layers of them.

`group_gemm` schedules a product as MLC-LLM's ``op/moe_matmul.py`` does; `gemv` is its product for one token.
"""

from typing import Any

import tvm
from tvm import relax, s_tir, tirx
from tvm.script import tirx as T

M, N, K = 8, 128, 32
"""Rows, columns and steps of a tile."""


def group_gemm(experts: int, out: int, depth: int, dtype: str = "float16", *, packed: bool = False, relu: bool = False) -> tirx.PrimFunc:
    """The scheduled kernel: float weights, or eight 4-bit values in a word and a scale for 32; `relu` makes it another one."""
    func = _packed(experts, out, depth, dtype) if packed else _plain(experts, out, depth, dtype, relu)
    sch = s_tir.Schedule(func)
    main = sch.get_sblock("compute")
    x, y, k = sch.get_loops(main)
    ty, yi = sch.split(y, [32, None])
    tx, xi, vec = sch.split(x, [8, None, 1])
    ko, ki = sch.split(k, factors=[None, K])
    sch.reorder(ty, tx, ko, ki, yi, xi, vec)
    sch.bind(ty, "threadIdx.y")
    sch.bind(tx, "threadIdx.x")
    sch.vectorize(vec)
    sch.annotate(tx, ann_key="pragma_auto_unroll_max_step", ann_val=64)
    sch.annotate(tx, ann_key="pragma_unroll_explicit", ann_val=1)
    store = sch.get_sblock("store")
    sch.reverse_compute_at(store, tx, preserve_unit_loops=True)
    sch.vectorize(sch.split(sch.get_loops(store)[-1], [None, 1])[1])
    for name in ("X_shared", "W_shared"):
        block = sch.get_sblock(name)
        count = len(sch.get_loops(block))
        sch.compute_at(block, ko, preserve_unit_loops=True)
        fetch_y, fetch_x, _, last = sch.split(sch.fuse(*sch.get_loops(block)[-count:]), factors=[32, 8, None, 1])
        sch.vectorize(last)
        sch.bind(fetch_y, "threadIdx.y")
        sch.bind(fetch_x, "threadIdx.x")
    sch.decompose_reduction(main, ko)
    return sch.mod["main"]


def _plain(experts: int, out: int, depth: int, dtype: str, relu: bool) -> tirx.PrimFunc:
    tiles = (out + N - 1) // N
    zero = tirx.const(0, dtype)

    def result(value: Any) -> Any:
        return tirx.max(value, zero) if relu else value

    # fmt: off
    @T.prim_func(private=True, s_tir=True)
    def func(var_x: T.handle, var_w: T.handle, var_indptr: T.handle, var_o: T.handle):
        T.func_attr({"tirx.is_scheduled": 1, "tirx.noalias": True})
        B = T.int32()
        X = T.match_buffer(var_x, (B, depth), dtype)
        W = T.match_buffer(var_w, (experts, out, depth), dtype)
        indptr = T.match_buffer(var_indptr, (experts + 1,), "int32")
        o = T.match_buffer(var_o, (B, out), dtype)
        for _bx in T.thread_binding(1024, thread="blockIdx.x"):
            with T.sblock("CTA"):
                bx = T.axis.spatial(1024, _bx)
                T.reads(indptr[:], X[:, :], W[:, :, :])
                T.writes(o[:, :])
                sum = T.sblock_alloc_buffer((2,), "int32", scope="local")
                row = T.sblock_alloc_buffer((2,), "int32", scope="local")
                cur_e = T.sblock_alloc_buffer((1,), "int32", scope="local")
                tile_id = T.sblock_alloc_buffer((1,), "int32", scope="local")
                sum[0] = 0
                sum[1] = T.ceildiv(indptr[1] - indptr[0], M) * tiles
                row[0] = 0
                row[1] = indptr[1] - indptr[0]
                cur_e[0] = 0
                tile_id[0] = bx
                while T.tvm_thread_invariant(cur_e[0] < experts):
                    while sum[1] <= tile_id[0] and cur_e[0] < experts:
                        cur_e[0] += 1
                        if cur_e[0] < experts:
                            e: T.int32 = cur_e[0]
                            delta: T.int32 = indptr[e + 1] - indptr[e]
                            sum[0] = sum[1]
                            sum[1] += T.ceildiv(delta, M) * tiles
                            row[0] = row[1]
                            row[1] += delta
                    T.tvm_storage_sync("shared")
                    if T.tvm_thread_invariant(cur_e[0] < experts):
                        e: T.int32 = cur_e[0]
                        num_tiles: T.int32 = tile_id[0] - sum[0]
                        m_offset: T.int32 = M * T.floordiv(num_tiles, tiles) + row[0]
                        n_offset: T.int32 = N * T.floormod(num_tiles, tiles)
                        with T.sblock("gemm"):
                            T.reads(row[1], X[m_offset : m_offset + M, :], W[e, n_offset : n_offset + N, :])
                            T.writes(o[m_offset : m_offset + M, n_offset : n_offset + N])
                            X_tile = T.sblock_alloc_buffer((M, depth), dtype, scope="shared")
                            W_tile = T.sblock_alloc_buffer((N, depth), dtype, scope="shared")
                            O_tile = T.sblock_alloc_buffer((M, N), dtype, scope="local")
                            for a0, a1 in T.grid(M, depth):
                                with T.sblock("X_shared"):
                                    i, j = T.axis.remap("SS", [a0, a1])
                                    X_tile[i, j] = T.if_then_else(m_offset + i < row[1], X[m_offset + i, j], zero)
                            for a0, a1 in T.grid(N, depth):
                                with T.sblock("W_shared"):
                                    i, j = T.axis.remap("SS", [a0, a1])
                                    W_tile[i, j] = T.if_then_else(n_offset + i < out, W[e, n_offset + i, j], zero)
                            for a0, a1, a2 in T.grid(M, N, depth):
                                with T.sblock("compute"):
                                    i, j, k = T.axis.remap("SSR", [a0, a1, a2])
                                    with T.init():
                                        O_tile[i, j] = zero
                                    O_tile[i, j] += X_tile[i, k] * W_tile[j, k]
                            for a0, a1 in T.grid(M, N):
                                with T.sblock("store"):
                                    i, j = T.axis.remap("SS", [a0, a1])
                                    if m_offset + i < row[1] and n_offset + j < out:
                                        o[m_offset + i, n_offset + j] = result(O_tile[i, j])
                    tile_id[0] += 1024
    # fmt: on
    return func


def _packed(experts: int, out: int, depth: int, dtype: str) -> tirx.PrimFunc:
    tiles, groups = (out + N - 1) // N, depth // 32
    zero = tirx.const(0, dtype)

    def value(w: Any, scale: Any, e: Any, i: Any, j: Any) -> Any:
        shift = (j % 8 * 4).astype("uint32")
        level = tirx.bitwise_and(tirx.shift_right(w[e, i, j // 8], shift), tirx.const(15, "uint32")).astype(dtype)
        return (level - tirx.const(7, dtype)) * scale[e, i, j // 32]

    # fmt: off
    @T.prim_func(private=True, s_tir=True)
    def func(
        var_x: T.handle, w: T.Buffer((experts, out, groups * 4), "uint32"), scale: T.Buffer((experts, out, groups), dtype),
        indptr: T.Buffer((experts + 1,), "int32"), var_o: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": 1, "tirx.noalias": True})
        B = T.int32()
        X = T.match_buffer(var_x, (B, depth), dtype)
        o = T.match_buffer(var_o, (B, out), dtype)
        for _bx in T.thread_binding(1024, thread="blockIdx.x"):
            with T.sblock("CTA"):
                bx = T.axis.spatial(1024, _bx)
                T.reads(X[:, :], w[:, :, :], scale[:, :, :], indptr[:])
                T.writes(o[:, :])
                sum = T.sblock_alloc_buffer((2,), "int32", scope="local")
                row = T.sblock_alloc_buffer((2,), "int32", scope="local")
                cur_e = T.sblock_alloc_buffer((1,), "int32", scope="local")
                tile_id = T.sblock_alloc_buffer((1,), "int32", scope="local")
                sum[0] = 0
                sum[1] = T.ceildiv(indptr[1] - indptr[0], M) * tiles
                row[0] = 0
                row[1] = indptr[1] - indptr[0]
                cur_e[0] = 0
                tile_id[0] = bx
                while T.tvm_thread_invariant(cur_e[0] < experts):
                    while sum[1] <= tile_id[0] and cur_e[0] < experts:
                        cur_e[0] += 1
                        if cur_e[0] < experts:
                            e: T.int32 = cur_e[0]
                            delta: T.int32 = indptr[e + 1] - indptr[e]
                            sum[0] = sum[1]
                            sum[1] += T.ceildiv(delta, M) * tiles
                            row[0] = row[1]
                            row[1] += delta
                    T.tvm_storage_sync("shared")
                    if T.tvm_thread_invariant(cur_e[0] < experts):
                        e: T.int32 = cur_e[0]
                        num_tiles: T.int32 = tile_id[0] - sum[0]
                        m_offset: T.int32 = T.floordiv(num_tiles, tiles) * M + row[0]
                        n_offset: T.int32 = T.floormod(num_tiles, tiles) * N
                        with T.sblock("gemm"):
                            T.reads(
                                row[1], X[m_offset : m_offset + M, :],
                                w[e, n_offset : n_offset + N, :], scale[e, n_offset : n_offset + N, :],
                            )
                            T.writes(o[m_offset : m_offset + M, n_offset : n_offset + N])
                            X_tile = T.sblock_alloc_buffer((M, depth), dtype, scope="shared")
                            W_tile = T.sblock_alloc_buffer((N, depth), dtype, scope="shared")
                            O_tile = T.sblock_alloc_buffer((M, N), "float32", scope="local")
                            for a0, a1 in T.grid(M, depth):
                                with T.sblock("X_shared"):
                                    i, j = T.axis.remap("SS", [a0, a1])
                                    X_tile[i, j] = T.if_then_else(m_offset + i < row[1], X[m_offset + i, j], zero)
                            for a0, a1 in T.grid(N, depth):
                                with T.sblock("W_shared"):
                                    i, j = T.axis.remap("SS", [a0, a1])
                                    W_tile[i, j] = T.if_then_else(n_offset + i < out, value(w, scale, e, n_offset + i, j), zero)
                            for a0, a1, a2 in T.grid(M, N, depth):
                                with T.sblock("compute"):
                                    i, j, k = T.axis.remap("SSR", [a0, a1, a2])
                                    with T.init():
                                        O_tile[i, j] = T.float32(0)
                                    O_tile[i, j] += T.Cast("float32", X_tile[i, k] * W_tile[j, k])
                            for a0, a1 in T.grid(M, N):
                                with T.sblock("store"):
                                    i, j = T.axis.remap("SS", [a0, a1])
                                    if m_offset + i < row[1] and n_offset + j < out:
                                        o[m_offset + i, n_offset + j] = T.Cast(dtype, O_tile[i, j])
                    tile_id[0] += 1024
    # fmt: on
    return func


def gemv(experts: int, out: int, depth: int, chosen: int, dtype: str = "float32", *, threads: bool = True) -> tirx.PrimFunc:
    """``o[t] = w[indptr[0, t]] @ x[0]``, weights of 4 bits; without `threads` a CPU can run it."""
    groups = depth // 32

    def value(w: Any, scale: Any, e: Any, i: Any, j: Any) -> Any:
        shift = (j % 8 * 4).astype("uint32")
        level = tirx.bitwise_and(tirx.shift_right(w[e, i, j // 8], shift), tirx.const(15, "uint32")).astype(dtype)
        return (level - tirx.const(7, dtype)) * scale[e, i, j // 32]

    @T.prim_func(private=True, s_tir=True)
    def func(
        x: T.Buffer((1, depth), dtype),
        w: T.Buffer((experts, out, groups * 4), "uint32"),
        scale: T.Buffer((experts, out, groups), dtype),
        indptr: T.Buffer((1, chosen), "int32"),
        o: T.Buffer((chosen, out), dtype),
    ):
        T.func_attr({"op_pattern": 4, "tirx.noalias": True})
        for number in T.thread_binding(chosen, thread="blockIdx.y"):
            with T.sblock("gemv_o"):
                e = T.axis.spatial(chosen, number)
                y = T.sblock_alloc_buffer((out, depth), dtype)
                for i1, i2 in T.grid(out, depth):
                    with T.sblock("dequantize"):
                        i, j = T.axis.remap("SS", [i1, i2])
                        y[i, j] = value(w, scale, indptr[0, e], i, j)
                for i1, i2 in T.grid(out, depth):
                    with T.sblock("gemv"):
                        i, j = T.axis.remap("SR", [i1, i2])
                        with T.init():
                            o[e, i] = T.cast(T.float32(0), dtype)
                        o[e, i] += x[0, j] * y[i, j]

    return func if threads else serial(func)


def serial(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A kernel with plain loops in the place of threads, for a CPU: blocks say what they compute whoever runs them."""
    import tvm_ffi

    def on_loop(loop: Any, mutator: Any) -> Any:
        body = mutator.mutate(loop.body)
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, body)

    def on_call(call: Any, mutator: Any) -> Any:
        name = getattr(call.op, "name", "")
        if name == "tirx.tvm_thread_invariant":
            return mutator.mutate(call.args[0])
        return tirx.IntImm("int32", 0) if name == "tirx.tvm_storage_sync" else mutator.default_mutate(call)

    buffers: dict[Any, Any] = {}

    def on_var(var: Any, _: Any) -> Any:
        if not isinstance(var.ty, tirx.BufferType) or var.ty.storage_scope in ("", "global"):
            return var
        if var not in buffers:
            buffers[var] = tirx.decl_buffer(var.ty.shape, str(var.ty.dtype.dtype), var.name)
        return buffers[var]

    body = tvm_ffi.structural_mutate(func.body, [(tirx.For, on_loop), (tvm.ir.Call, on_call), (tvm.ir.Var, on_var)])
    attrs = {key: value for key, value in dict(func.attrs).items() if key != "tirx.is_scheduled"}
    return tirx.PrimFunc(list(func.params), body, func.ret_type, None).with_attrs(attrs)


def expert_layer(kernels: tuple[tirx.PrimFunc, tirx.PrimFunc], rows: int | None, *, name: str) -> tvm.IRModule:
    """``main(x, indptr, up..., down...)``: rows sorted by expert through both products of all experts, with a gate between them."""
    bb = relax.BlockBuilder()
    m = tirx.Var("m", "int64") if rows is None else rows
    up, down = (bb.add_func(kernel, name) for kernel in kernels)
    inner = kernels[0].params
    dtype = str(inner[0].ty.dtype.dtype)
    gated = int(inner[-1].ty.shape[1]) // 2
    x = relax.Var("x", relax.TensorType([m, inner[0].ty.shape[1]], dtype))
    indptr = relax.Var("indptr", relax.TensorType(list(inner[-2].ty.shape), "int32"))

    def weights(kernel: tirx.PrimFunc, prefix: str) -> list[relax.Var]:
        kinds = ("weight", "scale")
        return [
            relax.Var(f"{prefix}_{k}", relax.TensorType(list(p.ty.shape), str(p.ty.dtype.dtype)))
            for k, p in zip(kinds, kernel.params[1:-2], strict=False)
        ]

    w1, w2 = weights(kernels[0], "up"), weights(kernels[1], "down")
    features = kernels[1].params[-1].ty.shape[1]
    count = m if len(inner[-2].ty.shape) == 1 else inner[-1].ty.shape[0]
    with bb.function("main", [x, indptr, *w1, *w2], attrs={"num_input": 2}):
        with bb.dataflow():
            h = bb.emit(relax.call_tir(up, [x, *w1, indptr], relax.TensorType([count, 2 * gated], dtype)))
            parts = bb.emit(relax.op.split(h, 2, axis=-1))
            gate = bb.emit(relax.op.nn.silu(bb.emit(relax.TupleGetItem(parts, 0))))
            active = bb.emit(relax.op.multiply(gate, bb.emit(relax.TupleGetItem(parts, 1))))
            out = bb.emit_output(relax.call_tir(down, [active, *w2, indptr], relax.TensorType([count, features], dtype)))
        bb.emit_func_output(out)
    return bb.finalize()
