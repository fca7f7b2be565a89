"""Conversions that several operators share count once in the search, as they are made once."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax

import spmd
from spmd import Mesh, P
from spmd.testing import assert_equivalent

SLOW_LINKS = spmd.Profile("slow links", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e6, link_latency=1e-9)
COLUMNS, ROWS = P(None, "tp"), P("tp", None)


def products(is_made: bool) -> tvm.IRModule:
    """Three products of one value, that is given or that an operator makes."""
    square = relax.TensorType([32, 32], "float32")
    x, *weights = (relax.Var(name, square) for name in "xuvw")
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *weights], attrs={"num_input": 1}):
        with builder.dataflow():
            y = builder.emit(relax.op.sort(x, axis=1)) if is_made else x
            results = builder.emit_output(relax.Tuple([builder.emit(relax.op.matmul(y, weight)) for weight in weights]))
        builder.emit_func_output(results)
    return builder.finalize()


def asked(workers: int) -> dict[str, P]:
    return {"main.x": ROWS, **{f"main.return[{i}]": COLUMNS for i in range(workers)}}


@pytest.mark.parametrize("is_made", [False, True], ids=["given", "made"])
def test_what_three_operators_take_is_gathered_once(is_made: bool) -> None:
    """A gather of 2 KiB for all is less than three results sent, 1 KiB each; counted for each operator it would be more."""
    plan = assert_equivalent(products(is_made), Mesh(tp=2), asked(3), profile=SLOW_LINKS).plan
    assert [(c.kind, c.bytes) for c in plan.collectives] == [("all_gather", 2048)]
    assert plan.cost == pytest.approx(sum(plan.predicted.values())) and plan.gap == 0


def test_one_result_is_sent_instead() -> None:
    specs = {**asked(1), "main.return[1]": ROWS, "main.return[2]": ROWS}
    plan = assert_equivalent(products(False), Mesh(tp=2), specs, profile=SLOW_LINKS).plan
    assert [c.kind for c in plan.collectives] == ["all_to_all"]
