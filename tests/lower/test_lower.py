"""Relax in, per-worker Relax out."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import P
from spmd.testing import assert_equivalent
from tests.programs import Mlp


def check(mod, expected, specs, workers=2, **options):
    """The lowered program, bindings to another name left out, is `expected`; and it gives what `mod` gives."""
    sharded = spmd.shard(mod, workers, specs, **options)
    relax.analysis.well_formed(sharded.mod)
    clean = relax.transform.CanonicalizeBindings()
    tvm.ir.assert_structural_equal(clean(sharded.mod), clean(expected))
    assert_equivalent(mod, workers, specs, profile=sharded.plan.profile)


def test_column_parallel_then_row_parallel():
    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4, 16), "float32"), w1: R.Tensor((16, 16), "float32"), w2: R.Tensor((16, 16), "float32")):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                up = R.matmul(x, w1)
                active = R.nn.relu(up)
                down = R.matmul(active, w2)
                total = R.spmd.all_reduce(down, axis="tp", kind="sum", workers=2, value="down")
                R.output(total)
            return total

    check(Mlp, Expected, {"w1": P(None, "tp"), "w2": P("tp", None)})


@I.ir_module
class GateUp:
    @R.function
    def main(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 24), "float32"), v: R.Tensor((12, 8), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            both = R.matmul(x, w)
            parts = R.split(both, 2, axis=1)
            active = R.nn.silu(parts[0])
            gated = R.multiply(active, parts[1])
            y = R.matmul(gated, v)
            R.output(y)
        return y


GATE_UP_EXPECTED = """
@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, FUSED), "float32"), v: R.Tensor((LOCAL, 8), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            both = R.matmul(x, w)
            parts = R.split(both, 2, axis=1)
            gate = parts[0]
            up = parts[1]
            active = R.nn.silu(gate)
            gated = R.multiply(active, up)
            MASK
            y = R.matmul(gated, v)
            total = R.spmd.all_reduce(y, axis="tp", kind="sum", workers=WORKERS, value="y")
            R.output(total)
        return total
"""
GATE_UP_MASK = """rank = R.spmd.axis_index(axis="tp", workers=5)
            valid = R.take(R.const(mine), rank, axis=0)
            shaped = R.reshape(valid, R.shape([1, 3]))
            gated = R.where(shaped, gated, R.const(0.0, "float32"))"""


@pytest.mark.parametrize(("workers", "local"), [(2, 6), (5, 3)], ids=["even", "padded"])
def test_a_fused_weight_is_split_by_segments(workers, local):
    """12 over 5 workers is padded to 3 each. The zeros of the weight may have met infinity in x, so they are masked before the sum."""
    text = GATE_UP_EXPECTED.replace("FUSED", str(2 * local)).replace("LOCAL", str(local)).replace("WORKERS", str(workers))
    text = text.replace("MASK", GATE_UP_MASK if local * workers > 12 else "")
    mine = np.arange(15).reshape(5, 3) < 12
    check(
        GateUp,
        tvm.script.from_source(text, {"np": np, "mine": mine, "I": I, "R": R}),
        {"w": P(None, ("tp", 12, 12)), "v": P("tp", None)},
        workers,
    )


def test_a_table_split_by_its_rows():
    """Each worker answers for the rows that it has, the sum is the look-up."""

    @I.ir_module
    class Before:
        @R.function
        def main(i: R.Tensor(("n",), "int32"), table: R.Tensor((100, 8), "float32")):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                y = R.take(table, i, axis=0)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(i: R.Tensor(("n",), "int32"), table: R.Tensor((50, 8), "float32")):
            R.func_attr({"num_input": 1})
            n = T.int64()
            with R.dataflow():
                rank = R.spmd.axis_index(axis="tp", workers=2)
                first64 = R.multiply(rank, R.const(50, "int64"))
                first = R.astype(first64, "int32")
                here = R.subtract(i, first)
                from_0 = R.greater_equal(here, R.const(0, "int32"))
                to_50 = R.less(here, R.const(50, "int32"))
                mine = R.logical_and(from_0, to_50)
                safe = R.where(mine, here, R.const(0, "int32"))
                rows = R.take(table, safe, axis=0, mode="clip")
                mask = R.reshape(mine, R.shape([n, 1]))
                masked = R.where(mask, rows, R.const(-0.0, "float32"))
                y = R.spmd.all_reduce(masked, axis="tp", kind="sum", workers=2, value="y")
                R.output(y)
            return y

    check(Before, Expected, {"table": P("tp", None)}, sizes={"n": 2})


@pytest.mark.parametrize(("mode", "first", "step"), [("clip", -60, 50), ("wrap", -60, 50), ("nan", -60, 50), ("fast", 0, 30)])
def test_indices_outside_of_a_split_table(mode, first, step):
    """0 to 3 steps of 50 from -60, in a table of 100 rows."""

    @I.ir_module
    class Before:
        @R.function
        def main(i: R.Tensor((5,), "int32"), table: R.Tensor((100, 8), "float32")):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                far = R.add(R.multiply(i, R.const(step, "int32")), R.const(first, "int32"))
                y = R.take(table, far, axis=0, mode=mode)
                R.output(y)
            return y

    slow = spmd.Profile("slow link", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e6, link_latency=1e-9)
    for workers in (2, 3):
        sharded = assert_equivalent(Before, workers, {"table": P("tp", None)}, profile=slow)
        assert [c.kind for c in sharded.plan.collectives] == ["all_reduce"]


@I.ir_module
class Sum:
    @R.function
    def main(x: R.Tensor((4, 10), "float32"), w: R.Tensor((10, 6), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            e = R.exp(x)
            y = R.matmul(e, w)
            R.output(y)
        return y


def test_padding_is_masked_before_a_sum():
    """10 over 3 workers: the last holds two elements and two of padding, which exp makes 1."""
    mine = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], "bool")

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4, 4), "float32"), w: R.Tensor((4, 6), "float32")):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                e = R.exp(x)
                rank = R.spmd.axis_index(axis="tp", workers=3)
                valid = R.take(R.const(mine), rank, axis=0)
                shaped = R.reshape(valid, R.shape([1, 4]))
                masked = R.where(shaped, e, R.const(0.0, "float32"))
                y = R.matmul(masked, w)
                total = R.spmd.all_reduce(y, axis="tp", kind="sum", workers=3, value="y")
                R.output(total)
            return total

    check(Sum, Expected, {"w": P("tp", None), "main.x": P(None, "tp"), "main.e": P(None, "tp")}, 3)


def test_zero_padding_times_infinite_padding():
    """The padding of log(|y|) is minus infinity, and zero times that is no zero."""

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 10), "float32"), y: R.Tensor((4, 10), "float32"), w: R.Tensor((10, 6), "float32")):
            with R.dataflow():
                a = R.log(R.abs(y))
                b = R.multiply(x, a)
                c = R.matmul(b, w)
                R.output(c)
            return c

    split = {name: P(None, "tp") for name in ("main.x", "main.y", "main.a", "main.b")}
    sharded = assert_equivalent(Before, 4, {**split, "main.w": P("tp", None)}, profile="generic")
    assert [c.kind for c in sharded.plan.collectives] == ["all_reduce"]


def test_padding_that_leaves_the_program_is_zero():
    """A result kept on the workers may come back as an input, whose padding counts as zero."""

    @I.ir_module
    class Before:
        @R.function
        def make(x: R.Tensor((4, 10), "float32")):
            y = R.exp(x)
            return y

        @R.function
        def use(y: R.Tensor((4, 10), "float32")):
            z = R.sum(y, axis=[1])
            return z

    split = {"make.x": P(None, "tp"), "make.return": P(None, "tp"), "use.y": P(None, "tp")}
    sharded = spmd.shard(Before, 3, split)
    x = np.random.default_rng(0).standard_normal((4, 10)).astype("float32")
    with spmd.workers(sharded) as w:
        found = w["use"](w["make"](x, keep=True))
    np.testing.assert_allclose(found, np.exp(x).sum(1), rtol=1e-5)


@I.ir_module
class Relu:
    @R.function
    def main(x: R.Tensor((4, 12), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.nn.relu(x)
            R.output(y)
        return y


@I.ir_module
class GatherSegments:
    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.nn.relu(x)
            shards = R.spmd.all_gather(y, axis="tp", dim=1, workers=2, value="y")
            workers = R.reshape(shards, R.shape([4, 2, 6]))
            first = R.strided_slice(workers, [2], [0], [4])
            low = R.reshape(first, R.shape([4, 8]))
            second = R.strided_slice(workers, [2], [4], [6])
            high = R.reshape(second, R.shape([4, 4]))
            whole = R.concat([low, high], axis=1)
            R.output(whole)
        return whole


@I.ir_module
class Slice:
    @R.function
    def main(x: R.Tensor((4, 12), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            parts = R.reshape(x, R.shape([4, 2, 6]))
            rank = R.spmd.axis_index(axis="tp", workers=2)
            own = R.take(parts, rank, axis=1)
            y = R.nn.relu(own)
            R.output(y)
        return y


@I.ir_module
class AllToAll:
    @R.function
    def main(x: R.Tensor((2, 12), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.nn.relu(x)
            z = R.spmd.all_to_all(y, axis="tp", split_dim=1, concat_dim=0, workers=2, value="y")
            R.output(z)
        return z


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ({"main.x": P(None, ("tp", 8, 4))}, GatherSegments),
        ({"main.return": P(None, "tp")}, Slice),
        ({"main.x": P("tp", None), "main.y": P("tp", None), "main.return": P(None, "tp")}, AllToAll),
    ],
    ids=["all_gather of segments", "slice", "all_to_all"],
)
def test_reshards(specs, expected):
    check(Relu, expected, specs)


def test_reduce_scatter():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 10), "float32"), w: R.Tensor((10, 6), "float32")):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                y = R.matmul(x, w)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4, 5), "float32"), w: R.Tensor((5, 6), "float32")):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                y = R.matmul(x, w)
                z = R.spmd.reduce_scatter(y, axis="tp", kind="sum", dim=1, workers=2, value="y")
                R.output(z)
            return z

    specs = {"w": P("tp", None), "main.x": P(None, "tp"), "main.return": P(None, "tp")}
    check(Before, Expected, specs)


SHARDINGS = {
    "whole": P(None, None),
    "rows": P("tp", None),
    "columns": P(None, "tp"),
    "segments": P(None, ("tp", 7, 5)),
}


@pytest.mark.parametrize("workers", [2, 3])
def test_every_reshard_gives_the_same_array(workers):
    """All pairs of placements, those with padding too, in one module with a function for each."""
    builder = relax.BlockBuilder()
    specs = {}
    for a in SHARDINGS:
        for b in SHARDINGS:
            x = relax.Var("x", relax.TensorType((4, 12), "float32"))
            with builder.function(f"{a}_to_{b}", [x]):
                with builder.dataflow():
                    y = builder.emit(relax.op.exp(x), f"y_{a}_{b}")
                    out = builder.emit_output(relax.op.negative(y))
                builder.emit_func_output(out)
            specs |= {f"{a}_to_{b}.x": SHARDINGS[a], f"{a}_to_{b}.y_{a}_{b}": SHARDINGS[a], f"{a}_to_{b}.return": SHARDINGS[b]}
    sharded = assert_equivalent(builder.finalize(), workers, specs, profile="generic", tolerance=0)
    assert {c.kind for c in sharded.plan.collectives} == {"all_gather", "all_to_all"}


@I.ir_module(s_tir=True)
class Kernels:
    """One kernel, called twice; a public function has the name that its second version would get."""

    @T.prim_func(s_tir=True, private=True)
    def scale(A: T.Buffer((4, 8), "float32"), B: T.Buffer((8,), "float32"), C: T.Buffer((4, 8), "float32")):
        for i, j in T.grid(4, 8):
            with T.sblock("scale"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = A[vi, vj] * B[vj]

    @R.function
    def main(x: R.Tensor((4, 8), "float32"), y: R.Tensor((4, 8), "float32"), w: R.Tensor((8,), "float32")):
        cls = Kernels
        with R.dataflow():
            a = R.call_tir(cls.scale, (x, w), out_ty=R.Tensor((4, 8), "float32"))
            b = R.call_tir(cls.scale, (y, w), out_ty=R.Tensor((4, 8), "float32"))
            R.output(a, b)
        return a, b

    @R.function
    def scale1(x: R.Tensor((4, 8), "float32")):
        y = R.add(x, x)
        return y


def test_a_kernel_that_two_calls_share_is_cut_for_each():
    @I.ir_module(s_tir=True)
    class Expected:
        @T.prim_func(s_tir=True, private=True)
        def rows(A: T.Buffer((2, 8), "float32"), B: T.Buffer((8,), "float32"), C: T.Buffer((2, 8), "float32")):
            for i, j in T.grid(2, 8):
                with T.sblock("scale"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = A[vi, vj] * B[vj]

        @T.prim_func(s_tir=True, private=True)
        def columns(A: T.Buffer((4, 4), "float32"), B: T.Buffer((4,), "float32"), C: T.Buffer((4, 4), "float32")):
            for i, j in T.grid(4, 4):
                with T.sblock("scale"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = A[vi, vj] * B[vj]

    specs = {"main.x": P("tp", None), "main.y": P(None, "tp"), "main.return[[]0]": P("tp", None), "main.return[[]1]": P(None, "tp")}
    sharded = assert_equivalent(Kernels, 2, specs, profile="generic")
    calls = [b.value for b in sharded.mod["main"].body.blocks[0].bindings if isinstance(b.value, tvm.ir.Call)]
    first, second = [sharded.mod[c.args[0]] for c in calls if c.op.name == "relax.call_tir"]
    tvm.ir.assert_structural_equal(first, Expected["rows"])
    tvm.ir.assert_structural_equal(second, Expected["columns"])
    assert isinstance(sharded.mod["scale1"], relax.Function)


def test_equal_calls_share_their_kernel():
    split = {"main.x": P(None, "tp"), "main.y": P(None, "tp"), "main.return*": P(None, "tp")}
    sharded = spmd.shard(Kernels, 2, split)
    assert len([f for f in sharded.mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]) == 1
    tvm.ir.assert_structural_equal(spmd.shard(Kernels, 2, {"main.*": P(others=None)}).mod["scale"], Kernels["scale"])


def test_packed_weights():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 8), "float32"), ps: R.Tuple(R.Tensor((8, 16), "float32"), R.Tensor((16, 8), "float32"))):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                up = ps[0]
                down = ps[1]
                a = R.matmul(x, up)
                b = R.matmul(a, down)
                R.output(b)
            return b

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4, 8), "float32"), ps: R.Tuple(R.Tensor((8, 8), "float32"), R.Tensor((8, 8), "float32"))):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                up = ps[0]
                a = R.matmul(x, up)
                down = ps[1]
                b = R.matmul(a, down)
                total = R.spmd.all_reduce(b, axis="tp", kind="sum", workers=2, value="b")
                R.output(total)
            return total

    check(Before, Expected, {"up": P(None, "tp")})


def test_a_value_is_gathered_once_for_all_that_want_it():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 12), "float32")):
            with R.dataflow():
                y = R.nn.relu(x)
                a = R.exp(y)
                b = R.tanh(y)
                c = R.add(a, b)
                R.output(c, y)
            return c, y

    late = spmd.Profile("high latency", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e12, link_latency=1e-3)
    specs = {"main.x": P(None, "tp"), "main.[abc]": P(None, None)}
    sharded = assert_equivalent(Before, 2, specs, profile=late)
    assert sharded.mod.script().count("R.spmd.all_gather") == 1
    assert len(sharded.plan.collectives) == 1


@I.ir_module
class One:
    """An operator that takes a tuple of one."""

    @R.function
    def main(x: R.Tensor((4, 8), "float32")):
        with R.dataflow():
            y = R.concat((x,), axis=0)
            z = R.exp(y)
            R.output(z)
        return z


def test_a_tuple_of_one_stays_a_tuple():
    assert_equivalent(One, 2, {"main.x": P("tp", None), "main.return": P("tp", None)})
