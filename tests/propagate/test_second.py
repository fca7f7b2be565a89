"""Conversions that several operators share count once in the search, as they are made once."""

from __future__ import annotations

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P
from spmd.testing import assert_equivalent

SLOW_LINKS = spmd.Profile("slow links", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e6, link_latency=1e-9)
COLUMNS, ROWS = P(None, "tp"), P("tp", None)


@I.ir_module
class Products:
    """Three products of one value, each asked for split by columns."""

    @R.function
    def main(
        x: R.Tensor((32, 32), "float32"),
        u: R.Tensor((32, 32), "float32"),
        v: R.Tensor((32, 32), "float32"),
        w: R.Tensor((32, 32), "float32"),
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a, b, c = R.matmul(x, u), R.matmul(x, v), R.matmul(x, w)
            R.output(a, b, c)
        return a, b, c


@I.ir_module
class Made:
    """The same of a value that an operator makes."""

    @R.function
    def main(
        x: R.Tensor((32, 32), "float32"),
        u: R.Tensor((32, 32), "float32"),
        v: R.Tensor((32, 32), "float32"),
        w: R.Tensor((32, 32), "float32"),
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.sort(x, axis=1)
            a, b, c = R.matmul(y, u), R.matmul(y, v), R.matmul(y, w)
            R.output(a, b, c)
        return a, b, c


def asked(workers: int) -> dict[str, P]:
    return {"main.x": ROWS, **{f"main.return[{i}]": COLUMNS for i in range(workers)}}


@pytest.mark.parametrize("mod", [Products, Made], ids=["given", "made"])
def test_what_three_operators_take_is_gathered_once(mod: tvm.IRModule) -> None:
    """A gather of 2 KiB for all is less than three results sent, 1 KiB each; counted for each operator it would be more."""
    plan = assert_equivalent(mod, Mesh(tp=2), asked(3), profile=SLOW_LINKS).plan
    assert [(c.kind, c.bytes) for c in plan.collectives] == [("all_gather", 2048)]
    assert plan.cost == pytest.approx(sum(plan.predicted.values())) and plan.gap == 0


def test_one_result_is_sent_instead() -> None:
    specs = {**asked(1), "main.return[1]": ROWS, "main.return[2]": ROWS}
    plan = assert_equivalent(Products, Mesh(tp=2), specs, profile=SLOW_LINKS).plan
    assert [c.kind for c in plan.collectives] == ["all_to_all"]
