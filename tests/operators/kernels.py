"""Kernels: what LegalizeOps makes of operators, and PrimFuncs as people write them."""

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T


@I.ir_module
class Operators:
    @R.function
    def k_add(x: R.Tensor((3, 7), "float64"), y: R.Tensor((7,), "float64")):
        return R.add(x, y)

    @R.function
    def k_exp(x: R.Tensor((3, 7), "float64")):
        return R.exp(x)

    @R.function
    def k_floor_divide(x: R.Tensor((8, 7), "int32"), y: R.Tensor((8, 7), "int32")):
        return R.floor_divide(x, y)

    @R.function
    def k_matmul(x: R.Tensor((3, 7), "float64"), w: R.Tensor((7, 8), "float64")):
        return R.matmul(x, w)

    @R.function
    def k_batched(x: R.Tensor((2, 3, 4), "float64"), w: R.Tensor((4, 5), "float64")):
        return R.matmul(x, w)

    @R.function
    def k_permute(x: R.Tensor((3, 4, 5), "float64")):
        return R.permute_dims(x, [2, 0, 1])

    @R.function
    def k_sum(x: R.Tensor((3, 7), "float64")):
        return R.sum(x, axis=[1])

    @R.function
    def k_sum_all(x: R.Tensor((4, 5), "float64")):
        return R.sum(x)

    @R.function
    def k_max(x: R.Tensor((3, 7), "float64")):
        return R.max(x, axis=[1], keepdims=True)

    @R.function
    def k_min(x: R.Tensor((3, 7), "int32")):
        return R.min(x, axis=[0])

    @R.function
    def k_prod(x: R.Tensor((3, 7), "float64")):
        return R.prod(x, axis=[1])

    @R.function
    def k_mean(x: R.Tensor((3, 7), "float64")):
        return R.mean(x, axis=[1])

    @R.function
    def k_variance(x: R.Tensor((3, 7), "float64")):
        return R.variance(x, axis=[1])

    @R.function
    def k_std(x: R.Tensor((3, 7), "float64")):
        return R.std(x, axis=[0, 1])

    @R.function
    def k_softmax(x: R.Tensor((3, 7), "float64")):
        return R.nn.softmax(x, axis=1)

    @R.function
    def k_softmax_line(x: R.Tensor((7,), "float64")):
        return R.nn.softmax(x, axis=0)

    @R.function
    def k_log_softmax(x: R.Tensor((3, 7), "float64")):
        return R.nn.log_softmax(x, axis=0)

    @R.function
    def k_rms_norm(x: R.Tensor((3, 7), "float32"), w: R.Tensor((7,), "float32")):
        return R.nn.rms_norm(x, w, axes=[-1])

    @R.function
    def k_layer_norm(x: R.Tensor((2, 3, 4), "float32"), w: R.Tensor((3, 4), "float32"), b: R.Tensor((3, 4), "float32")):
        return R.nn.layer_norm(x, w, b, axes=[1, 2])

    @R.function
    def k_take(x: R.Tensor((4, 8), "float64"), i: R.Tensor((5, 2), "int32")):
        return R.take(x, i, axis=0)

    @R.function
    def k_tril(x: R.Tensor((7, 5), "float64")):
        return R.tril(x)

    @R.function
    def k_concat(x: R.Tensor((3, 5), "float64"), y: R.Tensor((4, 5), "float64")):
        return R.concat((x, y), axis=0)

    @R.function
    def k_slice(x: R.Tensor((8, 5), "float64")):
        return R.strided_slice(x, [0], [1], [7])

    @R.function
    def k_flip(x: R.Tensor((3, 7), "float64")):
        return R.flip(x, axis=1)

    @R.function
    def k_split(x: R.Tensor((4, 6), "float64")):
        return R.split(x, 2, axis=1)

    @R.function
    def k_argmax(x: R.Tensor((3, 7), "float64")):
        return R.argmax(x, axis=1)

    @R.function
    def k_repeat(x: R.Tensor((3, 4), "float64")):
        return R.repeat(x, 2, axis=1)

    @R.function
    def k_reshape(x: R.Tensor((4, 6), "float64")):
        return R.reshape(x, (2, 12))

    @R.function
    def k_merge(x: R.Tensor((4, 6), "float64")):
        return R.reshape(x, (24,))

    @R.function
    def k_group_norm(x: R.Tensor((2, 4, 6), "float32"), w: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32")):
        return R.nn.group_norm(x, w, b, num_groups=2, channel_axis=1, axes=[2])

    @R.function
    def k_convolution(x: R.Tensor((2, 3, 6, 5), "float64"), w: R.Tensor((4, 3, 3, 3), "float64")):
        return R.nn.conv2d(x, w, padding=1)


@I.ir_module(s_tir=True)
class Written:
    @T.prim_func(s_tir=True, private=True)
    def scaled(a: T.handle, s: T.float64, n: T.int64, b: T.handle):
        m = T.int64()
        A = T.match_buffer(a, (m, n), "float64")
        B = T.match_buffer(b, (m, n), "float64")
        for i, j in T.grid(m, n):
            with T.sblock("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] * s

    @T.prim_func(s_tir=True, private=True)
    def pair(A: T.Buffer((5, 4), "float64"), S: T.Buffer((5,), "float64"), M: T.Buffer((5,), "float64")):
        for i, k in T.grid(5, 4):
            with T.sblock("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = T.float64(0)
                S[vi] = S[vi] + A[vi, vk]
        for i, k in T.grid(5, 4):
            with T.sblock("M"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi] = T.float64(-1000)
                M[vi] = T.max(M[vi], A[vi, vk] * A[vi, vk])

    @T.prim_func(s_tir=True, private=True)
    def accumulate(A: T.Buffer((5, 4), "float64"), B: T.Buffer((5, 4), "float64")):
        for i, j in T.grid(5, 4):
            with T.sblock("A"):
                vi, vj = T.axis.remap("SS", [i, j])
                A[vi, vj] = A[vi, vj] + B[vi, vj] * T.float64(2)

    @T.prim_func(s_tir=True, private=True)
    def fused(A: T.Buffer((5, 6), "float64"), B: T.Buffer((5, 6), "float64")):
        for f in T.parallel(30):
            with T.sblock("B"):
                vi = T.axis.spatial(5, f // 6)
                vj = T.axis.spatial(6, f % 6)
                B[vi, vj] = A[vi, vj] + T.float64(1)

    @T.prim_func(s_tir=True, private=True)
    def tiled(A: T.Buffer((7, 6), "float64"), B: T.Buffer((7,), "float64")):
        for i0, i1, k in T.grid(2, 4, 6):
            with T.sblock("B"):
                vi = T.axis.spatial(7, i0 * 4 + i1)
                vk = T.axis.reduce(6, k)
                T.where(i0 * 4 + i1 < 7)
                with T.init():
                    B[vi] = T.float64(0)
                B[vi] = B[vi] + T.exp(A[vi, vk])

    @T.prim_func(s_tir=True, private=True)
    def wide(A: T.Buffer((5, 8), "float64"), B: T.Buffer((5, 8), "float64")):
        for i in T.unroll(5):
            for j in T.vectorized(8):
                with T.sblock("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = T.if_then_else(A[vi, vj] > T.float64(0), A[vi, vj], T.float64(vi))

    @T.prim_func(s_tir=True, private=True)
    def guarded(A: T.Buffer((5, 7), "float64"), B: T.Buffer((5, 7), "float64")):
        for i, j in T.grid(5, 7):
            with T.sblock("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                if A[vi, vj] > T.float64(0):
                    B[vi, vj] = A[vi, vj]
                else:
                    B[vi, vj] = T.float64(vj)

    @T.prim_func(s_tir=True, private=True)
    def scan(A: T.Buffer((5, 7), "float64"), B: T.Buffer((5, 7), "float64")):
        for i in range(5):
            with T.sblock("B"):
                vi = T.axis.spatial(5, i)
                B[vi, 0] = A[vi, 0]
                for j in range(6):
                    B[vi, j + 1] = B[vi, j] + A[vi, j + 1]

    @T.prim_func(s_tir=True, private=True)
    def pairs(A: T.Buffer((4,), "float64"), B: T.Buffer((4,), "float64")):
        for i, k in T.grid(4, 4):
            with T.sblock("B"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    B[vi] = T.float64(0)
                B[vi] = B[vi] + A[vi] * A[vk]

    @T.prim_func(s_tir=True, private=True)
    def heads(A: T.Buffer((3, 24), "float64"), B: T.Buffer((3, 4, 2), "float64")):
        for i, h, d, k in T.grid(3, 4, 2, 3):
            with T.sblock("B"):
                vi, vh, vd, vk = T.axis.remap("SSSR", [i, h, d, k])
                with T.init():
                    B[vi, vh, vd] = T.float64(0)
                B[vi, vh, vd] = B[vi, vh, vd] + A[vi, (vh * 2 + vd) * 3 + vk]

    @T.prim_func(s_tir=True, private=True)
    def weighted(A: T.Buffer((3, 7), "float64"), B: T.Buffer((3,), "float64"), C: T.Buffer((3, 7), "float64")):
        for i, k in T.grid(3, 7):
            with T.sblock("B"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    B[vi] = T.float64(0)
                B[vi] = B[vi] + A[vi, vk] * T.Cast("float64", vk)
        for i, j in T.grid(3, 7):
            with T.sblock("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = A[vi, vj] / (B[vi] * B[vi] + T.float64(1))

    @T.prim_func(s_tir=True, private=True)
    def moment(A: T.Buffer((3, 7), "float64"), B: T.Buffer((3,), "float64")):
        for i, k in T.grid(3, 7):
            with T.sblock("B"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    B[vi] = T.float64(0)
                B[vi] = B[vi] + A[vi, vk] * T.Cast("float64", vk)

    @R.function
    def w_moment(x: R.Tensor((3, 7), "float64")):
        cls = Written
        return R.call_tir(cls.moment, (x,), out_ty=R.Tensor((3,), "float64"))

    @R.function
    def w_scaled(x: R.Tensor((5, 4), "float64")):
        cls = Written
        return R.call_tir(cls.scaled, (x, R.prim_value(T.float64(3)), R.prim_value(T.int64(4))), out_ty=R.Tensor((5, 4), "float64"))

    @R.function
    def w_pair(x: R.Tensor((5, 4), "float64")):
        cls = Written
        return R.call_tir(cls.pair, (x,), out_ty=[R.Tensor((5,), "float64"), R.Tensor((5,), "float64")])

    @R.function
    def w_accumulate(x: R.Tensor((5, 4), "float64"), y: R.Tensor((5, 4), "float64")):
        cls = Written
        return R.call_tir_inplace(cls.accumulate, (x, y), inplace_indices=[0], out_ty=R.Tensor((5, 4), "float64"))

    @R.function
    def w_fused(x: R.Tensor((5, 6), "float64")):
        cls = Written
        return R.call_tir(cls.fused, (x,), out_ty=R.Tensor((5, 6), "float64"))

    @R.function
    def w_tiled(x: R.Tensor((7, 6), "float64")):
        cls = Written
        return R.call_tir(cls.tiled, (x,), out_ty=R.Tensor((7,), "float64"))

    @R.function
    def w_wide(x: R.Tensor((5, 8), "float64")):
        cls = Written
        return R.call_tir(cls.wide, (x,), out_ty=R.Tensor((5, 8), "float64"))

    @R.function
    def w_guarded(x: R.Tensor((5, 7), "float64")):
        cls = Written
        return R.call_tir(cls.guarded, (x,), out_ty=R.Tensor((5, 7), "float64"))

    @R.function
    def w_scan(x: R.Tensor((5, 7), "float64")):
        cls = Written
        return R.call_tir(cls.scan, (x,), out_ty=R.Tensor((5, 7), "float64"))

    @R.function
    def w_pairs(x: R.Tensor((4,), "float64")):
        cls = Written
        return R.call_tir(cls.pairs, (x,), out_ty=R.Tensor((4,), "float64"))

    @R.function
    def w_heads(x: R.Tensor((3, 24), "float64")):
        cls = Written
        return R.call_tir(cls.heads, (x,), out_ty=R.Tensor((3, 4, 2), "float64"))

    @R.function
    def w_weighted(x: R.Tensor((3, 7), "float64")):
        cls = Written
        return R.call_tir(cls.weighted, (x,), out_ty=[R.Tensor((3,), "float64"), R.Tensor((3, 7), "float64")])


MODULE = tvm.IRModule({**relax.transform.LegalizeOps()(Operators).functions, **Written.functions})
ARGUMENTS = {"k_floor_divide": [np.arange(56, dtype="int32").reshape(8, 7), np.arange(56, dtype="int32").reshape(8, 7) % 5 + 1]}
"""Function -> arguments, where random ones (integers 0 to 3) would not do: dividing by zero ends the process."""
MISSING: dict[str, str] = {}
"""Function -> why placements that `find_missing` finds are not in the rule."""
