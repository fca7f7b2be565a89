"""What a plan sends, and how long it takes: read off its steps."""

from dataclasses import replace

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, Profile
from spmd.plan.decisions import Collective
from spmd.plan.steps import Compute
from spmd.realize.seconds import predicted
from tests.programs import Mlp

SLOW = Profile("slow", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e6, link_latency=1e-6)


@I.ir_module
class Twice:
    """A value is taken in the same way by two operators."""

    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        with R.dataflow():
            a = R.cumsum(x, axis=0)
            b = R.cumsum(x, axis=0, exclusive=True)
            out = (a, b)
            R.output(out)
        return out


def test_a_value_is_converted_once_in_a_function():
    plan = spmd.plan(Twice, 2, {"main.x": P("tp", None), "main.return[[]*": P(None, "tp")}, profile=SLOW)
    (made,) = plan.collectives
    assert str(made).startswith("all_to_all over tp, 48 bytes, in main: 'x' is kept as [tp, -], relax.cumsum 'a' takes it as [-, tp] (")
    assert (made.seconds, str(made.source), str(made.target)) == (pytest.approx(25e-6), "[tp, -]", "[-, tp]")


def test_the_time_is_that_of_all_steps():
    plan = spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)}, profile=SLOW)
    (sent,) = plan.collectives
    assert plan.predicted["main"] == pytest.approx(sent.seconds + sum(c.seconds for c in plan.choices["main"]))


def test_of_two_branches_the_slower_counts():
    times = {(): 1.0, (("z", True),): 2.0, (("z", False),): 3.0, (("z", True), ("u", False)): 4.0, (("v", True),): 0.5}
    step = Compute("relax.exp", "y", (), (), ())
    assert predicted(replace(step, seconds=seconds, branch=branch) for branch, seconds in times.items()) == 1.0 + (2.0 + 4.0) + 0.5


@I.ir_module
class Half:
    @R.function
    def main(w: R.Tensor((4, 6), "float16"), x: R.Tensor((4, 6), "float16"), y: R.Tensor((4, 6), "float32"), i: R.Tensor((4, 6), "int8")):
        with R.dataflow():
            a = R.sum(w, axis=[1])
            b = R.sum(y, axis=[1])
            c = R.sum(i, axis=[1])
            d = R.max(x, axis=[1])
            e = R.nn.log_softmax(y, axis=1)
            f = R.matmul(x, R.permute_dims(x))
            out = (a, b, c, d, e, f)
            R.output(out)
        return out


def test_sums_in_half_precision_are_remarked_and_not_logged(caplog):
    specs = {f"main.{name}": P(None, "tp", gather=False) for name in "wxyi"} | {"main.return[[]4]": P(None, "tp")}
    plan = spmd.plan(Half, 2, specs, profile=SLOW)
    reduced = {c.value: (c.dtype, c.reduce, c.is_low_precision) for c in plan.collectives}
    assert reduced["a"] == ("float16", "sum", True) and reduced["f"] == ("float16", "sum", True)
    assert reduced["b"] == ("float32", "sum", False) and reduced["c"] == ("int8", "sum", False)
    assert reduced["d"] == ("float16", "", False), "nothing is added up"
    assert reduced["e"] == ("float32", "", False), "what an operator sends is of the dtype that its rule says"
    assert plan.remarks == ["2 sums over workers are made in float16, first 'f' of 'main'"]
    assert plan.explain().splitlines()[-1] == f"remark: {plan.remarks[0]}"
    assert "all_reduce over tp, 8 bytes of float16, in main: " in plan.explain("main.a")
    assert "of float32" not in plan.explain("main.b")
    assert plan.notes == [] and not caplog.records


@pytest.mark.parametrize(
    ("dtype", "low"),
    [("float16", True), ("bfloat16", True), ("float8_e4m3fn", True), ("float6_e2m3fn", True), ("float64", False), ("int8", False)],
)
def test_what_low_precision_is(dtype, low):
    def sent(kind, reduce):
        return Collective(kind, "tp", 8, "main", "y", "why", dtype, reduce).is_low_precision

    assert [sent(*how) for how in (("all_reduce", "sum"), ("reduce_scatter", "sum"), ("all_reduce", ""))] == [low] * 3
    assert not sent("all_gather", "") and not sent("all_reduce", "max")
