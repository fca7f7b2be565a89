"""Collectives that are ready together become one call: IR in, IR out, numbers, and what the plan says of it."""

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, Profile, ShardingError
from spmd.testing import FREE_LINKS, assert_equivalent


@I.ir_module
class Products:
    @R.function
    def main(x: R.Tensor((8, 16), "float32"), u: R.Tensor((16, 12), "float32"), v: R.Tensor((16, 6), "float32")):
        with R.dataflow():
            a = R.matmul(x, u)
            b = R.matmul(x, v)
            R.output(a, b)
        return a, b


@I.ir_module
class ProductsOfEach:
    @R.function
    def main(x: R.Tensor((8, 8), "float32"), u: R.Tensor((8, 12), "float32"), v: R.Tensor((8, 6), "float32")):
        with R.dataflow():
            a: R.Tensor((8, 12), "float32") = R.matmul(x, u)
            b: R.Tensor((8, 6), "float32") = R.matmul(x, v)
            both = R.spmd.all_reduce((a, b), axis="tp", kind="sum", workers=2, value="a, b")
            a_sum = both[0]
            b_sum = both[1]
            result = (a_sum, b_sum)
            R.output(result)
        return result


SPLIT = {"main.x": P(None, "tp"), "main.u": P("tp", None), "main.v": P("tp", None)}


def test_two_sums_in_one_call():
    sharded = assert_equivalent(Products, 2, SPLIT)
    tvm.ir.assert_structural_equal(sharded.mod, ProductsOfEach)
    assert [(c.value, c.bytes, c.bundle) for c in sharded.plan.collectives] == [("a", 384, 1), ("b", 192, 1)]
    assert "main: 2 all_reduce in 1 call, 576 bytes" in sharded.plan.explain()
    (moved,) = sharded.plan.report().moved
    assert (moved.count, moved.calls, moved.bytes) == (2, 1, 576)


def test_a_bundle_has_one_latency():
    slow = Profile("slow start", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e9, link_latency=1.0)
    plan = spmd.plan(Products, 2, SPLIT, profile=slow)
    first, second = plan.collectives
    assert first.seconds == pytest.approx(1 + 384e-9) and second.seconds == pytest.approx(192e-9)
    assert plan.predicted["main"] == pytest.approx(1, rel=1e-3)


def test_what_moves_much_goes_alone():
    thin = Profile("thin", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e3, link_latency=1e-3)
    plan = spmd.plan(Products, 2, SPLIT, profile=thin)
    assert [c.bundle for c in plan.collectives] == [0, 0]


def test_who_is_ready_joins_who_is_needed_and_who_comes_later_does_not():
    @I.ir_module
    class InTurn:
        @R.function
        def main(x: R.Tensor((4, 8), "float32"), u: R.Tensor((8, 4), "float32"), v: R.Tensor((8, 4), "float32")):
            with R.dataflow():
                first = R.matmul(x, u)
                early = R.matmul(x, v)
                used = R.exp(first)
                late = R.matmul(x, R.add(u, v))
                R.output(used, early, late)
            return used, early, late

    specs = {"main.x": P(None, "tp"), "main.u": P("tp", None), "main.v": P("tp", None)}
    specs |= {f"main.{name}": P(None, None) for name in ("first", "early", "late")}
    sharded = assert_equivalent(InTurn, 2, specs)
    assert [(c.value, c.bundle) for c in sharded.plan.collectives] == [("first", 1), ("early", 1), ("late", 0)]


def test_a_function_with_an_if_is_left_alone():
    @I.ir_module
    class Branches:
        @R.function
        def main(
            x: R.Tensor((8, 16), "float32"), u: R.Tensor((16, 12), "float32"), v: R.Tensor((16, 6), "float32"), z: R.Tensor((), "bool")
        ):
            a = R.matmul(x, u)
            b = R.matmul(x, v)
            if z:  # noqa: SIM108 -- an If of Relax
                c = R.exp(b)
            else:
                c = R.negative(b)
            return a, b, c

    plan = assert_equivalent(Branches, 2, SPLIT).plan
    assert plan.collectives and not any(c.bundle for c in plan.collectives)


def test_a_plan_of_another_module_is_an_error():
    @I.ir_module
    class Later:
        @R.function
        def main(x: R.Tensor((8, 16), "float32"), u: R.Tensor((16, 12), "float32"), v: R.Tensor((16, 6), "float32")):
            with R.dataflow():
                b = R.matmul(x, v)
                a = R.matmul(x, u)
                R.output(a, b)
            return a, b

    plan = spmd.plan(Products, 2, SPLIT, profile=FREE_LINKS)
    with pytest.raises(ShardingError, match="Plan this module"):
        spmd.lower(Later, plan)
