"""What a kernel or a function writes in place: the program of the workers gave it memory that nobody had written, or a copy."""

import numpy as np
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd  # noqa: F401

i64 = T.int64
PLACES = relax.const(np.arange(12).reshape(2, 6), "int64")


@I.ir_module(s_tir=True)
class Rows:
    """Rows of a cache, put where a tensor says."""

    @T.prim_func(private=True, s_tir=True)
    def put(
        store: T.Buffer((i64(10), i64(12), i64(2)), "float32"),
        rows: T.Buffer((i64(4), i64(12), i64(2)), "float32"),
        where: T.Buffer((i64(4),), "int32"),
    ):
        for r, c, e in T.grid(i64(4), i64(12), i64(2)):
            with T.sblock("put"):
                vr, vc, ve = T.axis.remap("SSS", [r, c, e])
                store[where[vr], vc, ve] = rows[vr, vc, ve]

    @R.function
    def main(store: R.Tensor((10, 12, 2), "float32"), rows: R.Tensor((4, 12, 2), "float32"), where: R.Tensor((4,), "int32")):
        cls = Rows
        out = R.call_tir_inplace(cls.put, (store, rows, where), out_ty=R.Tensor((10, 12, 2), "float32"), inplace_indices=[0])
        return out


@I.ir_module(s_tir=True)
class RowsLost:
    """What is not written is nothing."""

    @T.prim_func(private=True, s_tir=True)
    def put(
        where: T.Buffer((i64(4),), "int32"),
        rows: T.Buffer((i64(4), i64(6), i64(2)), "float32"),
        store: T.Buffer((i64(10), i64(6), i64(2)), "float32"),
    ):
        for r, c, e in T.grid(i64(4), i64(6), i64(2)):
            with T.sblock("put"):
                vr, vc, ve = T.axis.remap("SSS", [r, c, e])
                store[where[vr], vc, ve] = rows[vr, vc, ve]

    @R.function
    def main(store: R.Tensor((10, 6, 2), "float32"), rows: R.Tensor((4, 6, 2), "float32"), where: R.Tensor((4,), "int32")):
        cls = RowsLost
        out = R.call_tir(cls.put, (where, rows), out_ty=R.Tensor((10, 6, 2), "float32"))
        return out


@I.ir_module(s_tir=True)
class From:
    """Rows of a cache, put from a place on that a tensor says."""

    @T.prim_func(private=True, s_tir=True)
    def put(
        store: T.Buffer((i64(10), i64(12), i64(2)), "float32"),
        rows: T.Buffer((i64(4), i64(12), i64(2)), "float32"),
        start: T.Buffer((i64(1),), "int32"),
    ):
        for r, c, e in T.grid(i64(4), i64(12), i64(2)):
            with T.sblock("put"):
                vr, vc, ve = T.axis.remap("SSS", [r, c, e])
                store[T.Cast("int64", T.min(T.max(start[i64(0)], 0), 6)) + vr, vc, ve] = rows[vr, vc, ve]

    @R.function
    def main(store: R.Tensor((10, 12, 2), "float32"), rows: R.Tensor((4, 12, 2), "float32"), start: R.Tensor((1,), "int32")):
        cls = From
        out = R.call_tir_inplace(cls.put, (store, rows, start), out_ty=R.Tensor((10, 12, 2), "float32"), inplace_indices=[0])
        return out


@I.ir_module(s_tir=True)
class FromLost:
    @T.prim_func(private=True, s_tir=True)
    def put(
        start: T.Buffer((i64(1),), "int32"),
        rows: T.Buffer((i64(4), i64(6), i64(2)), "float32"),
        store: T.Buffer((i64(10), i64(6), i64(2)), "float32"),
    ):
        for r, c, e in T.grid(i64(4), i64(6), i64(2)):
            with T.sblock("put"):
                vr, vc, ve = T.axis.remap("SSS", [r, c, e])
                store[T.Cast("int64", T.min(T.max(start[i64(0)], 0), 6)) + vr, vc, ve] = rows[vr, vc, ve]

    @R.function
    def main(store: R.Tensor((10, 6, 2), "float32"), rows: R.Tensor((4, 6, 2), "float32"), start: R.Tensor((1,), "int32")):
        cls = FromLost
        out = R.call_tir(cls.put, (start, rows), out_ty=R.Tensor((10, 6, 2), "float32"))
        return out


@I.ir_module(s_tir=True)
class Sum:
    """A cache that grows by so many times what comes as its column says."""

    @T.prim_func(private=True, s_tir=True)
    def add(store: T.Buffer((i64(10), i64(12)), "float32"), rows: T.Buffer((i64(10), i64(12)), "float32")):
        for r, c in T.grid(i64(10), i64(12)):
            with T.sblock("add"):
                vr, vc = T.axis.remap("SS", [r, c])
                store[vr, vc] = store[vr, vc] + rows[vr, vc] * T.Cast("float32", vc + i64(1))

    @R.function
    def main(store: R.Tensor((10, 12), "float32"), rows: R.Tensor((10, 12), "float32")):
        cls = Sum
        out = R.call_tir_inplace(cls.add, (store, rows), out_ty=R.Tensor((10, 12), "float32"), inplace_indices=[0])
        return out


@I.ir_module(s_tir=True)
class SumLost:
    @T.prim_func(private=True, s_tir=True)
    def add(rows: T.Buffer((i64(10), i64(6)), "float32"), places: T.Buffer((6,), "int64"), store: T.Buffer((i64(10), i64(6)), "float32")):
        for r, c in T.grid(i64(10), i64(6)):
            with T.sblock("add"):
                vr, vc = T.axis.remap("SS", [r, c])
                store[vr, vc] = store[vr, vc] + rows[vr, vc] * T.Cast("float32", places[vc] + i64(1))

    @R.function
    def main(store: R.Tensor((10, 6), "float32"), rows: R.Tensor((10, 6), "float32")):
        cls = SumLost
        index = R.spmd.axis_index(axis="tp", workers=2)
        places = R.take(PLACES, index, axis=0, mode="clip")
        out = R.call_tir(cls.add, (rows, places), out_ty=R.Tensor((10, 6), "float32"))
        return out


@I.ir_module
class Count:
    """A function adds to a weight at each call."""

    @R.function(pure=False)
    def main(x: R.Tensor((4, 4), "float32"), count: R.Tensor((4, 4), "float32")):
        R.func_attr({"num_input": 1})
        new = R.call_inplace_packed("history.add_one", count, inplace_indices=[0], ty_args=(R.Tensor((4, 4), "float32"),))
        out = R.add(x, new)
        return out


@I.ir_module
class CountOfACopy:
    """It adds to what was gathered."""

    @R.function(pure=False)
    def main(x: R.Tensor((4, 4), "float32"), count: R.Tensor((2, 4), "float32")):
        R.func_attr({"num_input": 1})
        whole = R.spmd.all_gather(count, axis="tp", dim=0, value="count", workers=2)
        new = R.call_inplace_packed("history.add_one", whole, inplace_indices=[0], ty_args=(R.Tensor((4, 4), "float32"),))
        out = R.add(x, new)
        return out
