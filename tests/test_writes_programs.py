"""Programs that write in place: what is written stays, on each worker's own copy, from operator to operator and from call to call."""

import numpy as np
import pytest
import tvm_ffi
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import Mesh, P, ShardingError
from spmd.testing import FREE_LINKS, assert_equivalent

MESHES = [Mesh(tp=1), Mesh(tp=2), Mesh(tp=3), Mesh(tp=4), Mesh(dp=2, tp=2)]


@I.ir_module(s_tir=True)
class Cache:
    """A cache of 8 slots for 4 heads of 6: written at slots that the data says, then read by attention; filled, then counted in."""

    @T.prim_func(private=True, s_tir=True)
    def put(cache: T.Buffer((8, 4, 6), "float32"), rows: T.Buffer((2, 4, 6), "float32"), where: T.Buffer((2,), "int32")):
        for r, h, d in T.grid(2, 4, 6):
            with T.sblock("put"):
                vr, vh, vd = T.axis.remap("SSS", [r, h, d])
                cache[where[vr], vh, vd] = rows[vr, vh, vd]

    @T.prim_func(private=True, s_tir=True)
    def decay(cache: T.Buffer((8, 4, 6), "float32")):
        for r, h, d in T.grid(8, 4, 6):
            with T.sblock("decay"):
                vr, vh, vd = T.axis.remap("SSS", [r, h, d])
                cache[vr, vh, vd] = cache[vr, vh, vd] * T.float32(0.5) + T.Cast("float32", vh * 6 + vd)

    @R.function
    def step(x: R.Tensor((2, 24), "float32"), where: R.Tensor((2,), "int32"), cache: R.Tensor((8, 4, 6), "float32")):
        R.func_attr({"num_input": 2})
        cls = Cache
        with R.dataflow():
            rows = R.reshape(x, (2, 4, 6))
            before = R.sum(cache, axis=[0, 2])
            first = R.call_tir_inplace(cls.put, (cache, rows, where), [0], out_ty=R.Tensor((8, 4, 6), "float32"))
            scores = R.sum(R.multiply(first, R.expand_dims(R.mean(rows, axis=[0]), 0)), axis=[2])
            turned = R.reshape(R.negative(rows), (2, 4, 6))
            second = R.call_tir_inplace(cls.put, (first, turned, R.add(where, R.const(1, "int32"))), [0], out_ty=first.ty)
            out = R.add(R.add(R.sum(second, axis=[0, 2]), before), R.sum(scores, axis=[0]))
            R.output(out)
        return out

    @R.function
    def fade(cache: R.Tensor((8, 4, 6), "float32")):
        R.func_attr({"num_input": 0})
        cls = Cache
        with R.dataflow():
            faded = R.call_tir_inplace(cls.decay, (cache,), [0], out_ty=R.Tensor((8, 4, 6), "float32"))
            out = R.max(faded, axis=[0])
            R.output(out)
        return out

    @R.function
    def read(cache: R.Tensor((8, 4, 6), "float32")):
        R.func_attr({"num_input": 0})
        with R.dataflow():
            out = R.add(R.permute_dims(cache, [1, 0, 2]), R.const(1, "float32"))
            R.output(out)
        return out


def arrays(*shapes):
    rng = np.random.default_rng(5)
    return [rng.uniform(1, 2, shape).astype("float32") for shape in shapes]


def through_the_cache(w):
    """Two functions write a cache that is loaded once, and a third one reads it."""
    x, cache = arrays((2, 24), (8, 4, 6))
    (kept,) = w.load([cache], "step")
    found = []
    for slots in ([0, 5], [6, 2], [2, 3]):
        found += [w["step"](x, np.array(slots, "int32"), kept), w["fade"](kept), w["read"](kept)]
    return found


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("spec", [P("?", "?", "?"), P(None, "tp", None), P(None, None, "tp"), P(None, None, None)], ids=str)
def test_a_cache_through_functions_and_calls(mesh, spec):
    assert_equivalent(Cache, mesh, {"cache": spec}, run=through_the_cache)


def test_two_axes_split_what_is_written():
    sharded = assert_equivalent(Cache, Mesh(dp=2, tp=2), {"cache": P(None, "dp", "tp")}, run=through_the_cache)
    assert not [c for c in sharded.plan.collectives if c.value in ("cache", "first", "second", "faded") and c.kind == "all_gather"]


def test_a_cache_is_never_gathered_to_be_written():
    sharded = spmd.shard(Cache, 2, {"cache": P(None, "tp", None)}, profile=FREE_LINKS)
    kinds = {op.name for _, f in sharded.mod.functions_items() if isinstance(f, relax.Function) for op in operators(f)}
    assert "relax.call_tir_inplace" in kinds
    assert all(str(c.inputs[0]) == "[-, tp, -]" for f in ("step", "fade") for c in sharded.plan.choices[f] if "inplace" in c.op)


def operators(function):
    found = []
    relax.analysis.post_order_visit(function, lambda e: found.append(e.op) if isinstance(e, relax.Call) else None)
    return [op for op in found if hasattr(op, "name")]


def handed_on(w):
    """A cache that comes back as a handle and goes in again; it is an input here, and no weight."""
    x, cache = arrays((2, 24), (8, 4, 6))
    for slots in ([0, 5], [6, 2]):
        cache = w["step"](x, np.array(slots, "int32"), cache, keep=True)
    return w["read"](cache)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("spec", [P("?", "?", "?"), P(None, "tp", None), P(None, None, "tp")], ids=str)
def test_a_cache_that_is_handed_on(mesh, spec):
    bb = relax.BlockBuilder()
    put = bb.add_func(Cache["put"], "put")
    types = [relax.TensorType(*t) for t in (((2, 24), "float32"), ((2,), "int32"), ((8, 4, 6), "float32"))]
    with bb.function("step", params := [relax.Var(n, t) for n, t in zip(("x", "where", "cache"), types, strict=True)]):
        with bb.dataflow():
            rows = bb.emit(relax.op.reshape(params[0], (2, 4, 6)))
            out = bb.emit_output(relax.op.call_tir_inplace(put, relax.Tuple([params[2], rows, params[1]]), [0], types[2]))
        bb.emit_func_output(out)
    with bb.function("read", [cache := relax.Var("cache", types[2])]):
        bb.emit_func_output(bb.emit(relax.op.sum(cache, [0])))
    mod = bb.finalize()
    specs = dict.fromkeys(("step.cache", "step.return", "read.cache"), spec)
    assert_equivalent(mod, mesh, specs, run=handed_on)


@I.ir_module(s_tir=True)
class Views:
    """What is written is a reshape of the cache; what was read before stays what it was."""

    @T.prim_func(private=True, s_tir=True)
    def add_one(count: T.Buffer((4, 6), "float32")):
        for i, j in T.grid(4, 6):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                count[vi, vj] = count[vi, vj] + T.Cast("float32", vi * 6 + vj + 1)

    @R.function
    def main(cache: R.Tensor((1, 4, 6), "float32")):
        R.func_attr({"num_input": 0})
        cls = Views
        with R.dataflow():
            before = R.exp(cache)
            flat = R.squeeze(cache, [0])
            written = R.call_tir_inplace(cls.add_one, (flat,), [0], out_ty=R.Tensor((4, 6), "float32"))
            out = R.add(R.add(before, cache), written)
            R.output(out)
        return out


def twice(w):
    (cache,) = arrays((1, 4, 6))
    (kept,) = w.load([cache])
    return [w["main"](kept), w["main"](kept)]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("specs", [{}, {"cache": P(None, "tp", None)}, {"cache": P(None, None, "tp")}], ids=str)
def test_a_view_of_what_is_written(mesh, specs):
    sharded = assert_equivalent(Views, mesh, specs, run=twice)
    (cache,) = arrays((1, 4, 6))
    counted = cache + np.arange(1, 25, dtype="float32").reshape(1, 4, 6)
    with spmd.workers(sharded) as w:
        (kept,) = w.load([cache])
        np.testing.assert_allclose(w["main"](kept), np.exp(cache) + 2 * counted, rtol=1e-5)
        np.testing.assert_allclose(kept.numpy(), counted, rtol=1e-6)


@tvm_ffi.register_global_func("tests.writes.count", override=True)
def _count(array, by=1):
    np.from_dlpack(array)[...] += by
    return array


@tvm_ffi.register_global_func("tests.writes.silent", override=True)
def _silent(array):
    np.from_dlpack(array)[...] += 1


def counting(call, dims=(4, 6)):
    """X plus a weight that a packed function adds one to."""
    bb = relax.BlockBuilder()
    x, count = (relax.Var(name, relax.TensorType(dims, "float32")) for name in ("x", "count"))
    with bb.function("main", [x, count], attrs={"num_input": 1}, pure=False):
        bb.emit_func_output(bb.emit(relax.op.add(x, call(bb, count))))
    return bb.finalize()


def in_place(name):
    return lambda bb, count: bb.emit(relax.op.call_inplace_packed(name, count, inplace_indices=[0], ty_args=[count.ty]))


def silently(bb, count):
    bb.emit(relax.Call(relax.ExternFunc("tests.writes.silent"), [count], ty_args=[relax.TupleType([])]))
    return count


def counts(w):
    kept = w.load([np.zeros((4, 6), "float32")])
    return [w["main"](np.zeros((4, 6), "float32"), *kept) for _ in range(3)]


@pytest.mark.parametrize("call", [in_place("tests.writes.count"), silently], ids=["in place", "silent"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_packed_function_writes_each_workers_own_weight(call, workers):
    sharded = assert_equivalent(counting(call), workers, run=counts)
    with spmd.workers(sharded) as w:
        assert [float(out.max()) for out in counts(w)] == [1, 2, 3]


def test_a_packed_function_that_takes_a_weight_whole_is_refused_where_it_is_split():
    what = (
        r"main: 'count' and main: 'gv': tests.writes.count writes it in place as \[-, -\], and it is kept as \[tp, -\]: "
        r"what is written to a copy would be lost\. Loosen the specs of the values around them\."
    )
    with pytest.raises(ShardingError, match=what):
        spmd.shard(counting(in_place("tests.writes.count")), 2, {"count": P("tp", None)})


@pytest.fixture
def rules(monkeypatch):
    """Rules that are forgotten after the test."""
    from spmd.rules import registry

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    spmd.rule("tests.writes.count", expression="... -> ...")


@pytest.mark.usefixtures("rules")
def test_a_packed_function_with_a_rule_writes_its_shard():
    sharded = assert_equivalent(counting(in_place("tests.writes.count")), 2, {"count": P("tp", None)}, run=counts)
    assert [c.value for c in sharded.plan.collectives] == ["gv"], "what is returned is gathered, and nothing else"


@pytest.mark.usefixtures("rules")
def test_a_packed_function_may_not_write_padding():
    """Three workers hold 2 of 4 rows each: what lies in the third's would no longer be zero."""
    with pytest.raises(ShardingError, match=r"writes it in place as|what it writes in place would be lost"):
        spmd.shard(counting(in_place("tests.writes.count")), 3, {"count": P("tp", None)})


def test_a_constant_is_not_written():
    mod = counting(lambda bb, count: in_place("tests.writes.count")(bb, relax.const(np.zeros((4, 6), "float32"))))
    with pytest.raises(ShardingError, match=r"writes into a constant in place\. Pass that as an argument of the function\."):
        spmd.shard(mod, 2)


def test_shared_memory_is_not_written():
    """A weight that one function only reads is one array for all workers; another function may not write it as its input."""
    bb = relax.BlockBuilder()
    ty = relax.TensorType((4, 6), "float32")
    with bb.function("reads", [w := relax.Var("w", ty)], attrs={"num_input": 0}):
        bb.emit_func_output(bb.emit(relax.op.negative(w)))
    with bb.function("writes", [x := relax.Var("x", ty)], pure=False):
        bb.emit_func_output(in_place("tests.writes.count")(bb, x))
    sharded = spmd.shard(bb.finalize(), 2)
    with spmd.workers(sharded) as w:
        (kept,) = w.load([np.zeros((4, 6), "float32")], "reads")
        with pytest.raises(ShardingError, match=r"its handle is memory that workers share\. Load it for this function"):
            w["writes"](kept)
        assert w["writes"](kept.numpy()).max() == 1
        assert kept.numpy().max() == 0


@I.ir_module(s_tir=True)
class Same:
    @T.prim_func(private=True, s_tir=True)
    def shifted(store: T.Buffer((4, 6), "float32"), rows: T.Buffer((4, 6), "float32")):
        for i, j in T.grid(4, 6):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                store[vi, vj] = store[vi, vj] + rows[vi, 5 - vj]

    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        cls = Same
        with R.dataflow():
            out = R.call_tir_inplace(cls.shifted, (x, x), [0], out_ty=R.Tensor((4, 6), "float32"))
            R.output(out)
        return out


def test_memory_that_is_given_twice_is_written_whole():
    sharded = assert_equivalent(Same, 2)
    assert any("it is given the memory that it writes twice" in note for note in sharded.plan.notes)


@I.ir_module(s_tir=True)
class Branches:
    """One branch writes the cache, the other does not."""

    @T.prim_func(private=True, s_tir=True)
    def double(cache: T.Buffer((4, 6), "float32")):
        for i, j in T.grid(4, 6):
            with T.sblock("double"):
                vi, vj = T.axis.remap("SS", [i, j])
                cache[vi, vj] = cache[vi, vj] * T.float32(2)

    @R.function
    def main(yes: R.Tensor((), "bool"), x: R.Tensor((6, 4), "float32"), cache: R.Tensor((4, 6), "float32")):
        R.func_attr({"num_input": 2})
        cls = Branches
        before = R.matmul(cache, x)
        if yes:
            written = R.call_tir_inplace(cls.double, (cache,), [0], out_ty=R.Tensor((4, 6), "float32"))
            out = R.matmul(written, x)
        else:
            out = R.matmul(cache, x)
        after = R.matmul(cache, x)
        return R.add(R.add(before, out), after)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("specs", [{}, {"cache": P("tp", None)}, {"cache": P(None, "tp")}], ids=str)
def test_a_branch_writes(mesh, specs):
    def run(w):
        x, cache = arrays((6, 4), (4, 6))
        (kept,) = w.load([cache])
        return [w["main"](np.array(yes), x, kept) for yes in (True, False, True)]

    assert_equivalent(Branches, mesh, specs, run=run)


@I.ir_module(s_tir=True)
class Recursive:
    """A loop that is a function which calls itself, and writes in each round."""

    @T.prim_func(private=True, s_tir=True)
    def double(cache: T.Buffer((4, 6), "float32")):
        for i, j in T.grid(4, 6):
            with T.sblock("double"):
                vi, vj = T.axis.remap("SS", [i, j])
                cache[vi, vj] = cache[vi, vj] * T.float32(2)

    @R.function(private=True)
    def rounds(i: R.Tensor((), "int32"), cache: R.Tensor((4, 6), "float32")) -> R.Tensor((4, 6), "float32"):
        cls = Recursive
        end: R.Tensor((), "bool") = R.greater_equal(i, R.const(3, "int32"))
        if end:
            out: R.Tensor((4, 6), "float32") = cache
        else:
            new = R.call_tir_inplace(cls.double, (cache,), [0], out_ty=R.Tensor((4, 6), "float32"))
            out: R.Tensor((4, 6), "float32") = cls.rounds(R.add(i, R.const(1, "int32")), new)
        return out

    @R.function
    def main(x: R.Tensor((4, 6), "float32"), cache: R.Tensor((4, 6), "float32")):
        R.func_attr({"num_input": 1})
        cls = Recursive
        y: R.Tensor((4, 6), "float32") = cls.rounds(R.const(0, "int32"), cache)
        return R.add(x, y)


def test_a_loop_writes():
    def run(w):
        x, cache = arrays((4, 6), (4, 6))
        (kept,) = w.load([cache])
        return [w["main"](x, kept) for _ in range(2)]

    assert_equivalent(Recursive, 2, run=run)
    with pytest.raises(ShardingError, match=r"'cache' and main: 'y': rounds writes it in place as \[-, -\], and it is kept as \[tp, -\]"):
        spmd.shard(Recursive, 2, {"cache": P("tp", None)})


def test_a_plan_that_converts_what_is_written_is_refused():
    plan = spmd.plan(Cache, 2, {"cache": P(None, "tp", None)}, profile=FREE_LINKS)
    kept = plan.params["cache"]
    plan.params["cache"] = spmd.Sharding.replicated(3)
    with pytest.raises(ShardingError, match=r"'cache'|cache"):
        spmd.lower(Cache, plan)
    plan.params["cache"] = kept
    spmd.lower(Cache, plan)


@I.ir_module(s_tir=True)
class ReturnedTwice:
    """What is written in place is given twice."""

    @T.prim_func(private=True, s_tir=True)
    def decay(cache: T.Buffer((4, 6), "float32")):
        for h, d in T.grid(4, 6):
            with T.sblock("decay"):
                vh, vd = T.axis.remap("SS", [h, d])
                cache[vh, vd] = cache[vh, vd] * T.float32(0.5)

    @R.function
    def main(cache: R.Tensor((4, 6), "float32")):
        cls = ReturnedTwice
        with R.dataflow():
            faded = R.call_tir_inplace(cls.decay, (cache,), [0], out_ty=R.Tensor((4, 6), "float32"))
            R.output(faded)
        return faded, faded


def test_what_is_written_is_sent_once_for_all_results():
    sharded = assert_equivalent(ReturnedTwice, 2, {"main.cache": P("tp", None)}, profile=FREE_LINKS)
    assert [c.kind for c in sharded.plan.collectives] == ["all_gather"]
