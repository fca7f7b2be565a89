"""`R.ccl` alone: what is written, what is refused, and that it gives what the dialect means under Disco."""

import os
import subprocess
import sys
from typing import Any

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import ShardingError
from spmd.collectives.ccl import to_ccl
from spmd.placement.mesh import Mesh
from tests.mpi import ROOT
from tests.programs import Mlp


@pytest.mark.parametrize("kind", ["ThreadedSession", "ProcessSession"])
def test_under_disco(kind: str) -> None:
    """In a process of its own, as an error in a worker of Disco ends its process."""
    program = [sys.executable, "-m", "tests.collectives.disco_suite", kind]
    ended = subprocess.run(program, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    parts = ["2 workers", "4 workers in 2 groups", "a whole module"] if kind == "ThreadedSession" else ["2 workers", "a whole module"]
    assert [part for part in parts if f"\n{part}: " in f"\n{ended.stdout}"] == parts


def one(op: str, axis: str, workers: int, dtype: str = "float32", **attrs: Any) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((4, 4), dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(getattr(R.spmd, op)(x, axis, workers=workers, value="x", **attrs)))
    return builder.get()


def test_a_sum_is_one_call() -> None:
    @I.ir_module
    class After:
        @R.function
        def main(x: R.Tensor((4, 4), "float32")) -> R.Tensor((4, 4), "float32"):
            R.func_attr({"ccl_groups": 1})
            y: R.Tensor((4, 4), "float32") = R.ccl.allreduce(x, op_type="sum", in_group=True)
            return y

    made = to_ccl(one("all_reduce", "tp", 2, kind="sum"), Mesh(tp=2))
    tvm.ir.assert_structural_equal(relax.transform.CanonicalizeBindings()(made), After)


def test_what_cannot_be_carried_is_refused_by_name() -> None:
    outer = r"over mesh axis 'dp' of Mesh\(dp=2, tp=2\) workers 0, 2 meet, and R\.ccl has groups of neighbours.*put the axis last"
    with pytest.raises(ShardingError, match=outer):
        to_ccl(one("all_reduce", "dp", 2, kind="sum"), Mesh(dp=2, tp=2))
    with pytest.raises(ShardingError, match=r"over mesh axis 'tp\+dp'"):
        to_ccl(one("all_gather", "tp+dp", 4, dim=0), Mesh(dp=2, tp=2))
    both = tvm.IRModule({"a": one("all_gather", "c", 2, dim=0)["main"], "b": one("all_gather", "b+c", 4, dim=0)["main"]})
    with pytest.raises(ShardingError, match=r"it communicates over 'c' and over 'b\+c', and R\.ccl has groups of one size"):
        to_ccl(both, Mesh(a=2, b=2, c=2))
    with pytest.raises(ShardingError, match=r"R\.spmd\.all_gather of 'x': R\.ccl carries no float8_e8m0fnu"):
        to_ccl(one("all_gather", "tp", 2, "float8_e8m0fnu", dim=0), Mesh(tp=2))
    with pytest.raises(
        ShardingError, match=r"""it takes the name of a dialect, and got str 'nccl'\. Write collectives="spmd" or collectives="ccl"\."""
    ):
        spmd.lower(Mlp, spmd.plan(Mlp, 2), collectives="nccl")
