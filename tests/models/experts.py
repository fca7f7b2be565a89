"""Mixtures of experts as MLC-LLM exports them: layers around its kernels for the rows of each expert.

`group_gemm` is the kernel that spmd makes; `tests/propagate/test_experts.py` shows that it is MLC-LLM's. `gemv` is a product for one token.
"""

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.script import tirx as T

from spmd.rules.kernel.group_gemm import GroupGemm, make_group_gemm
from tests.models.group_quant import BITS, GROUP, PER_WORD, ZERO


def group_gemm(experts: int, out: int, depth: int, dtype: str = "float16", *, packed: bool = False, relu: bool = False) -> tirx.PrimFunc:
    """The scheduled kernel: float weights, or eight 4-bit values in a word and a scale for 32; `relu` makes it another one."""
    made = make_group_gemm(GroupGemm(experts, out, depth, dtype, *((depth // 8, depth // 32, "uint32") if packed else ())))
    return clipped(made) if relu else made


def clipped(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A kernel that writes no result below zero: of the same name and signature, and another one."""
    result = func.params[-1]

    def on_store(store: Any, mutator: Any) -> Any:
        if not store.buffer.same_as(result):
            return mutator.default_mutate(store)
        return tirx.BufferStore(store.buffer, tirx.max(store.value, tirx.const(0, str(store.value.ty.dtype))), store.indices)

    body = tvm_ffi.structural_mutate(func.body, [(tirx.BufferStore, on_store)])
    return tirx.PrimFunc(list(func.params), body, func.ret_type, func.attrs)


def gemv(experts: int, out: int, depth: int, chosen: int, dtype: str = "float32", *, threads: bool = True) -> tirx.PrimFunc:
    """``o[t] = w[indptr[0, t]] @ x[0]``, weights of 4 bits unpacked first; without `threads` a CPU can run it."""
    words, groups = depth // PER_WORD, depth // GROUP
    mask, zero = tirx.const(2**BITS - 1, "uint32"), tirx.const(ZERO, dtype)

    def level(word: Any, column: Any) -> Any:
        shift = (column % PER_WORD * BITS).astype("uint32")
        return tirx.bitwise_and(tirx.shift_right(word, shift), mask).astype(dtype) - zero

    @T.prim_func(private=True, s_tir=True)
    def product(
        x: T.Buffer((1, depth), dtype),
        w: T.Buffer((experts, out, words), "uint32"),
        scale: T.Buffer((experts, out, groups), dtype),
        indptr: T.Buffer((1, chosen), "int32"),
        o: T.Buffer((chosen, out), dtype),
    ):
        T.func_attr({"op_pattern": 4, "tirx.noalias": True})
        for place in T.thread_binding(chosen, thread="blockIdx.y"):
            with T.sblock("one_expert"):
                t = T.axis.spatial(chosen, place)
                floats = T.sblock_alloc_buffer((out, depth), dtype)
                for r, c in T.grid(out, depth):
                    with T.sblock("unpack"):
                        row, column = T.axis.remap("SS", [r, c])
                        floats[row, column] = (
                            level(w[indptr[0, t], row, column // PER_WORD], column) * scale[indptr[0, t], row, column // GROUP]
                        )
                for r, c in T.grid(out, depth):
                    with T.sblock("sum"):
                        row, column = T.axis.remap("SR", [r, c])
                        with T.init():
                            o[t, row] = tirx.const(0, dtype)
                        o[t, row] = o[t, row] + floats[row, column] * x[0, column]

    return product if threads else serial(product)


def serial(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A kernel with plain loops in the place of threads, for a CPU: blocks say what they compute whoever runs them."""

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
