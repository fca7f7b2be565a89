"""What writes in place stands in a block of its own."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd.ir.inline import inlined
from spmd.schedules import build
from spmd.schedules.writes import SeparateWrites
from spmd.testing import assert_equivalent


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

    @R.function(pure=False)
    def main(p: R.Tensor((16,), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Expected
        with R.dataflow():
            before = R.exp(p)
            q = R.memory.view(p, R.shape([4, 4]), R.dtype("float32"), R.prim_value(T.int64(0)))
            R.output(before, q)
        _call = cls.add_one(q)
        y = q
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


TYPE = relax.TensorType([4, 4], "float32")


@I.ir_module(s_tir=True)
class Kernels:
    """One writes new memory, too; one takes a number."""

    @T.prim_func(private=True, s_tir=True)
    def new(
        p: T.Buffer((T.int64(4), T.int64(4)), "float32"),
        x: T.Buffer((T.int64(4), T.int64(4)), "float32"),
        out: T.Buffer((T.int64(4), T.int64(4)), "float32"),
    ):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                p[vi, vj] = p[vi, vj] + x[vi, vj]
                out[vi, vj] = x[vi, vj]

    @T.prim_func(private=True, s_tir=True)
    def scaled(p: T.Buffer((T.int64(4), T.int64(4)), "float32"), x: T.Buffer((T.int64(4), T.int64(4)), "float32"), n: T.int64):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                p[vi, vj] = p[vi, vj] + x[vi, vj] * T.Cast("float32", n) / T.float32(3)


def unread(kernel: str, where: str) -> tvm.IRModule:
    """``main(yes, x, s, p)`` adds x to p in place, and of what that gives reads nothing but, perhaps, what is never read."""
    bb = relax.BlockBuilder()
    n = tirx.Var("n", "int64")
    yes, s = relax.Var("yes", relax.TensorType([], "bool")), relax.Var("s", relax.TensorType([n], "float32"))
    x, p = relax.Var("x", TYPE), relax.Var("p", TYPE)
    kernel_var = bb.add_func(Kernels[kernel], kernel)

    def write(p: relax.Var, x: relax.Var) -> relax.Var:
        if kernel == "new":
            return bb.emit(relax.TupleGetItem(bb.emit(op.call_tir_inplace(kernel_var, relax.Tuple([p, x]), [0, -1], [TYPE, TYPE])), 1))
        return bb.emit(op.call_tir_inplace(kernel_var, relax.Tuple([p, x, n]), [0], TYPE))

    if where == "private":
        a, b = relax.Var("a", TYPE), relax.Var("b", TYPE)
        with bb.function("helper", [a, b], private=True):
            with bb.dataflow():
                given = bb.emit_output(op.exp(write(a, b)))
            bb.emit_func_output(given)
        helper = next(var for var in bb.get().get_global_vars() if var.name_hint == "helper")
    with bb.function("main", [yes, x, s, p], attrs={"num_input": 3}):
        if where == "branch":
            bb._begin_binding_block()
            result = write(p, x)
            then = relax.SeqExpr([bb._end_block()], result)
            bb.emit(relax.If(yes, then, relax.SeqExpr([relax.BindingBlock([])], x)))
            out = bb.emit(op.add(p, op.sum(s)))
        else:
            with bb.dataflow():
                bb.emit(op.exp(write(p, x))) if where == "main" else bb.emit(helper(p, x))
                out = bb.emit_output(op.add(p, op.sum(s)))
        bb.emit_func_output(out)
    return bb.finalize()


CASES = [("new", "main"), ("new", "branch"), ("new", "private"), ("scaled", "main"), ("scaled", "branch")]


@pytest.mark.parametrize(("kernel", "where"), CASES)
def test_a_write_is_made_whoever_reads_what_it_gives(kernel: str, where: str) -> None:
    machine = relax.VirtualMachine(build(unread(kernel, where)), tvm.cpu())
    x, p = (tvm.runtime.tensor(np.full((4, 4), value, "float32")) for value in (2.0, 1.0))
    for times in (1, 2):
        out = machine["main"](tvm.runtime.tensor(np.array(True)), x, tvm.runtime.tensor(np.zeros(3, "float32")), p)
        np.testing.assert_array_equal(out.numpy(), np.full((4, 4), 1 + 2 * times, "float32"))
        np.testing.assert_array_equal(p.numpy(), out.numpy())


@pytest.mark.parametrize(("kernel", "where"), CASES)
def test_such_a_write_is_made_by_every_worker(kernel: str, where: str) -> None:
    x, s, ones = np.full((4, 4), 2, "float32"), np.zeros(3, "float32"), np.ones((4, 4), "float32")

    def run(w: spmd.run.workers.Workers) -> list[object]:
        (kept,) = w.load([ones])
        found = [w["main"](np.array(True), x, s, kept) for _ in range(2)]
        np.testing.assert_array_equal(found[1], 5 * ones)
        return found

    specs = {"p": spmd.P("tp", None)} if kernel == "new" else {}  # a kernel that takes a number runs whole
    assert_equivalent(unread(kernel, where), 2, specs, run=run, sizes={"n": 3})


@I.ir_module(s_tir=True)
class Turns:
    """A loop that writes, of which nothing is read, beside a private function that is put in the place of its call."""

    @T.prim_func(private=True, s_tir=True)
    def add(p: T.Buffer((T.int64(4), T.int64(4)), "float32"), x: T.Buffer((T.int64(4), T.int64(4)), "float32")):
        for i, j in T.grid(T.int64(4), T.int64(4)):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                p[vi, vj] = p[vi, vj] + x[vi, vj]

    @R.function(private=True)
    def layer(i: R.Tensor((), "int64"), p: R.Tensor((4, 4), "float32"), x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        cls = Turns
        go: R.Tensor((), "bool") = R.less(i, R.const(2, "int64"))
        if go:
            written = R.call_tir_inplace(cls.add, (p, x), out_ty=R.Tensor((4, 4), "float32"), inplace_indices=[0])
            j: R.Tensor((), "int64") = R.add(i, R.const(1, "int64"))
            out: R.Tensor((4, 4), "float32") = cls.layer(j, written, x)
        else:
            out: R.Tensor((4, 4), "float32") = p
        return out

    @R.function(private=True)
    def twice(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        y: R.Tensor((4, 4), "float32") = R.add(x, x)
        return y

    @R.function
    def main(x: R.Tensor((4, 4), "float32"), p: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
        R.func_attr({"num_input": 1})
        cls = Turns
        _unread: R.Tensor((4, 4), "float32") = cls.layer(R.const(0, "int64"), p, x)
        y: R.Tensor((4, 4), "float32") = cls.twice(x)
        return R.add(y, p)


def test_a_loop_writes_whoever_reads_what_it_gives() -> None:
    x, p = np.full((4, 4), 2, "float32"), np.ones((4, 4), "float32")

    def run(w: spmd.run.workers.Workers) -> list[object]:
        (kept,) = w.load([p])
        found = [w["main"](x, kept) for _ in range(2)]
        np.testing.assert_array_equal(found, [9 * p, 13 * p])
        return found

    assert_equivalent(Turns, 2, run=run)


def test_a_packed_function_with_the_name_of_such_a_loop_stays_one() -> None:
    x, bb = relax.Var("x", TYPE), relax.BlockBuilder(Turns)
    with bb.function("other", [x], pure=False):
        y = bb.emit(relax.Call(Turns.get_global_var("twice"), [x]))
        bb.emit_func_output(bb.emit(relax.Call(relax.ExternFunc("layer"), [y], ty_args=[TYPE])))
    assert 'R.call_packed("layer", ' in inlined(bb.get())["other"].script()


def test_a_constant_that_is_written_is_copied_too() -> None:
    bb = relax.BlockBuilder()
    x = relax.Var("x", TYPE)
    with bb.function("main", [x]):
        with bb.dataflow():
            start = relax.const(np.ones((4, 4), "float32"))
            both = bb.emit(op.call_tir_inplace(bb.add_func(Kernels["new"], "new"), relax.Tuple([start, x]), [0, -1], [TYPE, TYPE]))
            out = bb.emit_output(op.add(bb.emit(relax.TupleGetItem(both, 0)), bb.emit(relax.TupleGetItem(both, 1))))
        bb.emit_func_output(out)
    machine = relax.VirtualMachine(build(bb.finalize()), tvm.cpu())
    for _ in range(2):
        np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(np.full((4, 4), 2, "float32"))).numpy(), np.full((4, 4), 5))
