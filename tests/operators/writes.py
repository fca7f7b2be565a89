"""Kernels that write in place: where a position or the data says, a part of what they are given, on top of what is there."""

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T


@I.ir_module(s_tir=True)
class MODULE:
    @T.prim_func(private=True, s_tir=True)
    def put(store: T.Buffer((9, 4, 7), "float64"), rows: T.Buffer((3, 4, 7), "float64"), where: T.Buffer((3,), "int32")):
        for r, c, e in T.grid(3, 4, 7):
            with T.sblock("put"):
                vr, vc, ve = T.axis.remap("SSS", [r, c, e])
                store[where[vr], vc, ve] = rows[vr, vc, ve]

    @T.prim_func(private=True, s_tir=True)
    def put_last(rows: T.Buffer((3, 4, 7), "float64"), start: T.Buffer((1,), "int32"), store: T.Buffer((9, 4, 7), "float64")):
        for r, c, e in T.grid(3, 4, 7):
            with T.sblock("put"):
                vr, vc, ve = T.axis.remap("SSS", [r, c, e])
                store[start[0] + vr, vc, ve] = rows[vr, vc, ve]

    @T.prim_func(private=True, s_tir=True)
    def top(store: T.Buffer((9, 5), "float64"), rows: T.Buffer((3, 5), "float64")):
        for r, c in T.grid(3, 5):
            with T.sblock("put"):
                vr, vc = T.axis.remap("SS", [r, c])
                store[vr, vc] = T.exp(rows[vr, vc])

    @T.prim_func(private=True, s_tir=True)
    def weighted(store: T.Buffer((5, 7), "float64"), rows: T.Buffer((5, 7), "float64")):
        for r, c in T.grid(5, 7):
            with T.sblock("add"):
                vr, vc = T.axis.remap("SS", [r, c])
                store[vr, vc] = store[vr, vc] * T.float64(0.5) + rows[vr, vc] * T.Cast("float64", vr * 10 + vc + 1)

    @T.prim_func(private=True, s_tir=True)
    def totals(rows: T.Buffer((5, 7), "float64"), store: T.Buffer((5,), "float64")):
        for r, k in T.grid(5, 7):
            with T.sblock("sum"):
                vr, vk = T.axis.remap("SR", [r, k])
                with T.init():
                    store[vr] = T.float64(0)
                store[vr] = store[vr] + rows[vr, vk]

    @T.prim_func(private=True, s_tir=True)
    def running(store: T.Buffer((5,), "float64"), rows: T.Buffer((5, 7), "float64")):
        for r, k in T.grid(5, 7):
            with T.sblock("sum"):
                vr, vk = T.axis.remap("SR", [r, k])
                store[vr] = store[vr] + rows[vr, vk]

    @T.prim_func(private=True, s_tir=True)
    def both(store: T.Buffer((5, 7), "float64"), rows: T.Buffer((5, 7), "float64"), old: T.Buffer((5, 7), "float64")):
        for r, c in T.grid(5, 7):
            with T.sblock("keep"):
                vr, vc = T.axis.remap("SS", [r, c])
                old[vr, vc] = store[vr, vc]
        for r, c in T.grid(5, 7):
            with T.sblock("add"):
                vr, vc = T.axis.remap("SS", [r, c])
                store[vr, vc] = store[vr, vc] + rows[vr, vc]

    @T.prim_func(private=True, s_tir=True)
    def turned(store: T.Buffer((6, 5), "float64"), rows: T.Buffer((5, 6), "float64")):
        for r, c in T.grid(5, 6):
            with T.sblock("put"):
                vr, vc = T.axis.remap("SS", [r, c])
                store[vc, vr] = rows[vr, vc] + store[vc, vr]

    @T.prim_func(private=True, s_tir=True)
    def mirrored(store: T.Buffer((6, 5), "float64")):
        for r, c in T.grid(6, 5):
            with T.sblock("put"):
                vr, vc = T.axis.remap("SS", [r, c])
                store[vr, vc] = store[5 - vr, vc] + T.float64(1)

    @T.prim_func(private=True, s_tir=True)
    def put_any(a: T.handle, b: T.handle, c: T.handle):
        s, r, n, e = T.int64(), T.int64(), T.int64(), T.int64()
        store = T.match_buffer(a, (s, n, e), "float64")
        rows = T.match_buffer(b, (r, n, e), "float64")
        where = T.match_buffer(c, (r,), "int32")
        for i, j, k in T.grid(r, n, e):
            with T.sblock("put"):
                vr, vc, ve = T.axis.remap("SSS", [i, j, k])
                store[where[vr], vc, ve] = rows[vr, vc, ve]

    @T.prim_func(private=True, s_tir=True)
    def running_any(a: T.handle, b: T.handle):
        n, m = T.int64(), T.int64()
        store = T.match_buffer(a, (n,), "float64")
        rows = T.match_buffer(b, (n, m), "float64")
        for r, k in T.grid(n, m):
            with T.sblock("sum"):
                vr, vk = T.axis.remap("SR", [r, k])
                store[vr] = store[vr] + rows[vr, vk]

    @T.prim_func(private=True, s_tir=True)
    def turned_any(a: T.handle, b: T.handle):
        n, m = T.int64(), T.int64()
        store = T.match_buffer(a, (m, n), "float64")
        rows = T.match_buffer(b, (n, m), "float64")
        for r, c in T.grid(n, m):
            with T.sblock("put"):
                vr, vc = T.axis.remap("SS", [r, c])
                store[vc, vr] = rows[vr, vc] + store[vc, vr]

    @R.function
    def w_put_any(store: R.Tensor((8, 4, 6), "float64"), rows: R.Tensor((2, 4, 6), "float64"), where: R.Tensor((2,), "int32")):
        return R.call_tir_inplace(MODULE.put_any, (store, rows, where), [0], out_ty=R.Tensor((8, 4, 6), "float64"))

    @R.function
    def w_running_any(store: R.Tensor((4,), "float64"), rows: R.Tensor((4, 6), "float64")):
        return R.call_tir_inplace(MODULE.running_any, (store, rows), [0], out_ty=R.Tensor((4,), "float64"))

    @R.function
    def w_turned_any(store: R.Tensor((6, 4), "float64"), rows: R.Tensor((4, 6), "float64")):
        return R.call_tir_inplace(MODULE.turned_any, (store, rows), [0], out_ty=R.Tensor((6, 4), "float64"))

    @R.function
    def w_put(store: R.Tensor((9, 4, 7), "float64"), rows: R.Tensor((3, 4, 7), "float64"), where: R.Tensor((3,), "int32")):
        return R.call_tir_inplace(MODULE.put, (store, rows, where), [0], out_ty=R.Tensor((9, 4, 7), "float64"))

    @R.function
    def w_put_last(rows: R.Tensor((3, 4, 7), "float64"), start: R.Tensor((1,), "int32"), store: R.Tensor((9, 4, 7), "float64")):
        return R.call_tir_inplace(MODULE.put_last, (rows, start, store), [2], out_ty=R.Tensor((9, 4, 7), "float64"))

    @R.function
    def w_top(store: R.Tensor((9, 5), "float64"), rows: R.Tensor((3, 5), "float64")):
        return R.call_tir_inplace(MODULE.top, (store, rows), [0], out_ty=R.Tensor((9, 5), "float64"))

    @R.function
    def w_weighted(store: R.Tensor((5, 7), "float64"), rows: R.Tensor((5, 7), "float64")):
        return R.call_tir_inplace(MODULE.weighted, (store, rows), [0], out_ty=R.Tensor((5, 7), "float64"))

    @R.function
    def w_totals(rows: R.Tensor((5, 7), "float64"), store: R.Tensor((5,), "float64")):
        return R.call_tir_inplace(MODULE.totals, (rows, store), [1], out_ty=R.Tensor((5,), "float64"))

    @R.function
    def w_running(store: R.Tensor((5,), "float64"), rows: R.Tensor((5, 7), "float64")):
        return R.call_tir_inplace(MODULE.running, (store, rows), [0], out_ty=R.Tensor((5,), "float64"))

    @R.function
    def w_both(store: R.Tensor((5, 7), "float64"), rows: R.Tensor((5, 7), "float64")):
        types = [R.Tensor((5, 7), "float64"), R.Tensor((5, 7), "float64")]
        return R.call_tir_inplace(MODULE.both, (store, rows), [0, -1], out_ty=types)

    @R.function
    def w_turned(store: R.Tensor((6, 5), "float64"), rows: R.Tensor((5, 6), "float64")):
        return R.call_tir_inplace(MODULE.turned, (store, rows), [0], out_ty=R.Tensor((6, 5), "float64"))

    @R.function
    def w_mirrored(store: R.Tensor((6, 5), "float64")):
        return R.call_tir_inplace(MODULE.mirrored, (store,), [0], out_ty=R.Tensor((6, 5), "float64"))


STORE, ROWS = (np.random.default_rng(0).normal(size=size) for size in ((9, 4, 7), (3, 4, 7)))
ARGUMENTS = {"w_put": [STORE, ROWS, np.array([8, 0, 4], "int32")], "w_put_last": [ROWS, np.array([5], "int32"), STORE]}
ARGUMENTS["w_put_any"] = [STORE[:8, :, :6], ROWS[:2, :, :6], np.array([6, 1], "int32")]
"""Function -> arguments, where random ones would not do."""
MISSING: dict[str, str] = {}
