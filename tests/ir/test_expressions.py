"""Names of scalar operations."""

import re
from pathlib import Path

import pytest
import tvm
from tvm import te, tirx

import spmd
from spmd.ir.expressions import intrinsic

X = tirx.Var("x", "float32")


@pytest.mark.parametrize(
    ("expr", "name"),
    [
        (te.exp(X), "exp"),
        (tirx.log2(X), "log2"),
        (tirx.if_then_else(X > 0, X, 1.0), "if_then_else"),
        (tirx.call_extern("float32", "sinf", X), "call_extern"),
        (tvm.relax.op.add(*(tvm.relax.Var(name, tvm.relax.TensorType((2,), "float32")) for name in "ab")), ""),
        (X + 1.0, ""),
        (3, ""),
    ],
)
def test_names_have_no_prefix(expr, name):
    assert intrinsic(expr) == name


def test_operations_that_are_asked_for_are_there():
    """TVM moves some from one prefix to another: a comparison with the old name is never true, and says nothing."""
    there = set(tvm.ir.Op.list_op_names())
    attributes = {
        "tirx.noalias",
        "tirx.is_scheduled",
        "tirx.is_host_func",
        "tirx.kernel_launch_params",
        "tirx.launch_bounds_min_blocks_per_sm",
    }
    for path in Path(spmd.__file__).parent.rglob("*.py"):
        named = set(re.findall(r'"((?:tirx|prim)\.[a-z0-9_.]+)"', path.read_text()))
        wrong = {name for name in named - attributes if name not in there}
        assert not wrong, (path, wrong)
