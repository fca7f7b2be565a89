"""What writes in place stands in a block of its own."""

import logging

import numpy as np
import tvm
from tvm import relax, te
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from spmd.schedules import build
from spmd.schedules.writes import SeparateWrites


@I.ir_module(s_tir=True)
class Before:
    @T.prim_func(private=True, s_tir=True)
    def add_one(count: T.Buffer((T.int64(4), T.int64(4)), "float32")):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                count[vi, vj] = count[vi, vj] + T.float32(1)

    @R.function
    def main(p: R.Tensor((16,), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Before
        with R.dataflow():
            before = R.exp(p)
            q = R.reshape(p, R.shape([4, 4]))
            y = R.call_tir_inplace(cls.add_one, (q,), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
            b = R.add(R.reshape(before, R.shape([4, 4])), y)
            R.output(b)
        return b


@I.ir_module(s_tir=True)
class Expected:
    @T.prim_func(private=True, s_tir=True)
    def add_one(count: T.Buffer((T.int64(4), T.int64(4)), "float32")):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                count[vi, vj] = count[vi, vj] + T.float32(1)

    @R.function
    def main(p: R.Tensor((16,), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Expected
        with R.dataflow():
            before = R.exp(p)
            q = R.memory.view(p, R.shape([4, 4]), R.dtype("float32"), R.prim_value(T.int64(0)))
            R.output(before, q)
        y = R.call_tir_inplace(cls.add_one, (q,), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
        with R.dataflow():
            b = R.add(R.reshape(before, R.shape([4, 4])), y)
            R.output(b)
        return b


def test_a_write_stands_alone() -> None:
    before = Before.script()
    tvm.ir.assert_structural_equal(SeparateWrites()(Before), relax.transform.Normalize()(Expected))
    assert Before.script() == before


def test_what_was_read_before_and_what_views_share() -> None:
    machine = relax.VirtualMachine(build(Before), tvm.cpu())
    p = np.arange(16, dtype="float32") / 16
    given = tvm.runtime.tensor(p)
    for times in (1, 2):
        found = machine["main"](given).numpy()
        np.testing.assert_allclose(found, (np.exp(p + times - 1) + p + times).reshape(4, 4), rtol=1e-6)
        np.testing.assert_allclose(given.numpy(), p + times)


@I.ir_module(s_tir=True)
class Folded:
    """What is written would be a constant: each call starts from it again."""

    @T.prim_func(private=True, s_tir=True)
    def add_to(count: T.Buffer((T.int64(4), T.int64(4)), "float32"), x: T.Buffer((T.int64(4), T.int64(4)), "float32")):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                count[vi, vj] = count[vi, vj] + x[vi, vj]

    @R.function
    def main(p: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Folded
        with R.dataflow():
            half = R.full((2, 8), R.const(0.5, "float32"), "float32")
            start = R.reshape(R.multiply(half, R.const(4, "float32")), (4, 4))
            out = R.call_tir_inplace(cls.add_to, (start, p), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
            R.output(out)
        return out


def test_a_constant_is_copied_before_it_is_written() -> None:
    machine = relax.VirtualMachine(build(Folded), tvm.cpu())
    p = np.arange(16, dtype="float32").reshape(4, 4)
    for _ in range(2):
        np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(p)).numpy(), p + 2)


def test_a_module_that_writes_nothing_stays() -> None:
    mod = tvm.IRModule({"add_to": Folded["add_to"]})
    assert SeparateWrites()(mod).same_as(mod)


@I.ir_module(s_tir=True)
class ReadsBefore:
    @T.prim_func(private=True, s_tir=True)
    def add_one(count: T.Buffer((T.int64(4), T.int64(4)), "float32")):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                count[vi, vj] = count[vi, vj] + T.float32(1)

    @R.function
    def main(x: R.Tensor((4, 4), "float32"), p: R.Tensor((4, 4), "float32")) -> R.Tuple(R.Tensor, R.Tensor, R.Tensor):
        cls = ReadsBefore
        with R.dataflow():
            t = R.permute_dims(p)
            hot = R.tanh(x)
            weight = R.add(hot, x)
            y = R.call_tir_inplace(cls.add_one, (p,), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
            b = R.matmul(x, t)
            c = R.matmul(x, weight)
            gv = (b, c, y)
            R.output(gv)
        return gv


def test_what_a_product_reads_is_not_made_behind_a_write() -> None:
    """Neither what is written nor what the block before has for itself."""
    x, p = (np.arange(16, dtype="float32").reshape(4, 4) / n for n in (7, 5))
    machine = relax.VirtualMachine(build(ReadsBefore), tvm.cpu())
    b, c, y = (np.asarray(v.numpy()) for v in machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(p.copy())))
    np.testing.assert_allclose(b, x @ p.T, rtol=1e-5)
    np.testing.assert_allclose(c, x @ (np.tanh(x) + x), rtol=1e-5)
    np.testing.assert_array_equal(y, p + 1)


@I.ir_module(s_tir=True)
class IntoNew:
    @T.prim_func(private=True, s_tir=True)
    def add(count: T.Buffer((T.int64(4), T.int64(4)), "float32"), more: T.Buffer((T.int64(4), T.int64(4)), "float32")):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                count[vi, vj] = count[vi, vj] + more[vi, vj]

    @R.function
    def main(x: R.Tensor((4, 4), "float32"), kept: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = IntoNew
        with R.dataflow():
            new = R.full(R.shape([4, 4]), R.const(0.5, "float32"), dtype="float32")
            first = R.call_tir_inplace(cls.add, (new, x), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
            second = R.call_tir_inplace(cls.add, (kept, first), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
            R.output(second)
        return second


def test_a_write_that_reads_what_the_write_before_it_made() -> None:
    x, kept = (np.arange(16, dtype="float32").reshape(4, 4) / n for n in (7, 5))
    machine = relax.VirtualMachine(build(IntoNew), tvm.cpu())
    for _ in range(2):
        result = machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(kept))
        np.testing.assert_allclose(result.numpy(), kept + (x + 0.5), rtol=1e-6)


@I.ir_module(s_tir=True)
class Unread:
    @T.prim_func(private=True, s_tir=True)
    def add(count: T.Buffer((T.int64(4), T.int64(4)), "float32"), more: T.Buffer((T.int64(4), T.int64(4)), "float32")):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                count[vi, vj] = count[vi, vj] + more[vi, vj]

    @R.function
    def main(x: R.Tensor((4, 4), "float32"), p: R.Tensor((4, 4), "float32"), q: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Unread
        with R.dataflow():
            first = R.call_tir_inplace(cls.add, (p, x), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
            _last = R.call_tir_inplace(cls.add, (q, first), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
            _other = R.call_inplace_packed("tests.halve", x, inplace_indices=[0], ty_args=R.Tensor((4, 4), "float32"))
            y = R.exp(p)
            R.output(y)
        return y


def test_a_write_of_which_nothing_is_read_is_made() -> None:
    """TVM drops what is pure and unread, and calls a write that."""

    @tvm.register_global_func("tests.halve", override=True)
    def halve(x: tvm.runtime.Tensor) -> tvm.runtime.Tensor:
        x.copyfrom(x.numpy() / 2)
        return x

    x, p, q = (tvm.runtime.tensor(np.full((4, 4), value, "float32")) for value in (2.0, 1.0, 5.0))
    machine = relax.VirtualMachine(build(Unread), tvm.cpu())
    np.testing.assert_allclose(machine["main"](x, p, q).numpy(), np.exp(3.0), rtol=1e-6)
    assert [float(value.numpy()[0, 0]) for value in (x, p, q)] == [1.0, 3.0, 8.0]


def test_a_write_that_is_left_out_is_told(caplog) -> None:
    """It needs memory for what else it gives."""
    bb = relax.BlockBuilder()
    x, y = (relax.Var(name, relax.TensorType([4, 4], "float32")) for name in ("x", "y"))
    given = te.placeholder((4, 4), "float32", "given")
    copy = te.create_prim_func([given, te.compute((4, 4), lambda i, j: given[i, j], "copy")]).without_attr("global_symbol")
    with bb.function("main", [x, y]):
        with bb.dataflow():
            bb.emit(op.call_tir_inplace(bb.add_func(copy, "copy"), relax.Tuple([x]), [0, -1], [x.ty, x.ty]), "both")
            result = bb.emit_output(op.exp(y))
        bb.emit_func_output(result)
    with caplog.at_level(logging.WARNING, "spmd"):
        SeparateWrites()(bb.get())
    assert [r.getMessage() for r in caplog.records] == [
        "'both' writes in place, but nothing reads what it gives: TVM leaves it out; return what it gives"
    ]
