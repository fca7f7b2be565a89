"""The ops as Relax sees them: text, types, errors, legalization."""

import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd.collectives as C
from spmd.collectives import dialect
from spmd.errors import ShardingError

n = TypeVar("n")  # a symbolic size of the modules below


@I.ir_module
class Every:
    @R.function
    def main(x: R.Tensor(("n", 4, 6), "bfloat16")):
        with R.dataflow():
            a = R.spmd.all_reduce(x, axis="tp", kind="max", workers=2, value="lv0")
            b = R.spmd.all_gather(a, axis="tp", dim=1, workers=2, value="lv1")
            c = R.spmd.reduce_scatter(b, axis="dp", kind="sum", dim=2, workers=3, value="lv2")
            d = R.spmd.all_to_all(c, axis="tp", split_dim=1, concat_dim=0, workers=2, value="lv3")
            e = R.spmd.permute(d, axis="dp", pairs=[(0, 1), (1, 2)], workers=3, value="lv4")
            f = R.spmd.broadcast(e, axis="dp", root=2, workers=3, value="lv5")
            i = R.spmd.axis_index(axis="tp", workers=2)
            R.output(f, i)
        return (f, i)


@I.ir_module
class EveryLegal:
    @R.function
    def main(x: R.Tensor((n, 4, 6), "bfloat16")):
        with R.dataflow():
            a = R.call_dps_packed(
                "spmd.all_reduce",
                (x, R.str("tp"), R.str("max"), R.prim_value(2), R.str("lv0")),
                out_ty=R.Tensor((n, 4, 6), "bfloat16"),
            )
            b = R.call_dps_packed(
                "spmd.all_gather",
                (a, R.str("tp"), R.prim_value(1), R.prim_value(2), R.str("lv1")),
                out_ty=R.Tensor((n, 8, 6), "bfloat16"),
            )
            c = R.call_dps_packed(
                "spmd.reduce_scatter",
                (b, R.str("dp"), R.str("sum"), R.prim_value(2), R.prim_value(3), R.str("lv2")),
                out_ty=R.Tensor((n, 8, 2), "bfloat16"),
            )
            d = R.call_dps_packed(
                "spmd.all_to_all",
                (c, R.str("tp"), R.prim_value(1), R.prim_value(0), R.prim_value(2), R.str("lv3")),
                out_ty=R.Tensor((n * 2, 4, 2), "bfloat16"),
            )
            e = R.call_dps_packed(
                "spmd.permute",
                (d, R.str("dp"), R.shape([0, 1, 1, 2]), R.prim_value(3), R.str("lv4")),
                out_ty=R.Tensor((n * 2, 4, 2), "bfloat16"),
            )
            f = R.call_dps_packed(
                "spmd.broadcast",
                (e, R.str("dp"), R.prim_value(2), R.prim_value(3), R.str("lv5")),
                out_ty=R.Tensor((n * 2, 4, 2), "bfloat16"),
            )
            i = R.call_dps_packed("spmd.axis_index", (R.str("tp"), R.prim_value(2)), out_ty=R.Tensor((), "int64"))
            R.output(f, i)
        return (f, i)


@I.ir_module
class Bundle:
    @R.function
    def main(x: R.Tensor(("n", 4), "float16"), y: R.Tensor((6, 4, 2), "float16")):
        with R.dataflow():
            both = R.spmd.all_gather((x, y), axis="tp", dim=1, workers=2, value="x, y")
            summed = R.spmd.all_reduce(both, axis="tp", kind="sum", workers=2, value="x, y")
            R.output(summed)
        return summed


@I.ir_module
class BundleLegal:
    @R.function
    def main(x: R.Tensor((n, 4), "float16"), y: R.Tensor((6, 4, 2), "float16")):
        with R.dataflow():
            both = R.call_dps_packed(
                "spmd.all_gather",
                (x, y, R.str("tp"), R.prim_value(1), R.prim_value(2), R.str("x, y")),
                out_ty=[R.Tensor((n, 8), "float16"), R.Tensor((6, 8, 2), "float16")],
            )
            first = both[0]
            second = both[1]
            summed = R.call_dps_packed(
                "spmd.all_reduce",
                (first, second, R.str("tp"), R.str("sum"), R.prim_value(2), R.str("x, y")),
                out_ty=[R.Tensor((n, 8), "float16"), R.Tensor((6, 8, 2), "float16")],
            )
            R.output(summed)
        return summed


def test_a_bundle_is_an_op_on_a_tuple() -> None:
    text = Bundle.script()
    assert 'R.spmd.all_gather((x, y), axis="tp", dim=1, value="x, y", workers=2)' in text
    tvm.ir.assert_structural_equal(tvm.script.from_source(text), Bundle)
    tvm.ir.assert_structural_equal(relax.transform.LegalizeOps()(Bundle), BundleLegal)


def test_text_reads_back() -> None:
    text = Every.script()
    assert 'R.spmd.all_reduce(x, axis="tp", kind="max", value="lv0", workers=2)' in text
    assert 'R.spmd.permute(d, axis="dp", pairs=[[0, 1], [1, 2]], value="lv4", workers=3)' in text
    assert 'R.spmd.axis_index(axis="tp", workers=2)' in text
    again = tvm.script.from_source(text)
    tvm.ir.assert_structural_equal(again, Every)
    assert again.script() == text


def test_a_module_is_saved_and_loaded() -> None:
    tvm.ir.assert_structural_equal(tvm.ir.load_json(tvm.ir.save_json(Every)), Every)


def test_legalization() -> None:
    tvm.ir.assert_structural_equal(relax.transform.LegalizeOps()(Every), EveryLegal)


def test_ops_are_pure() -> None:
    relax.analysis.well_formed(Every)  # raises, also for an impure call in a dataflow block
    for op in C.OPS.values():
        assert tvm.ir.Op.get(op.relax_name).get_attr("FPurity")


def test_registering_again_changes_nothing() -> None:
    dialect._register()
    test_text_reads_back()
    test_legalization()


def inferred(build: Callable[[relax.Expr], relax.Expr], ty: relax.Type) -> relax.Type:
    x = relax.Var("x", ty)
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        out = builder.emit(build(x))
        builder.emit_func_output(out)
    return out.ty


def tensor(*shape: object) -> relax.TensorType:
    return relax.TensorType(shape, "float16")


m = tvm.tirx.Var("m", "int64")
TYPES = [
    (lambda x: C.all_reduce(x, "tp", "sum", 2, "v"), tensor(m, 4), tensor(m, 4)),
    (lambda x: C.all_gather(x, "tp", 0, 2, "v"), tensor(m, 4), tensor(m * 2, 4)),
    (lambda x: C.all_gather(x, "tp", 1, 3, "v"), tensor(m, 4), tensor(m, 12)),
    (lambda x: C.reduce_scatter(x, "tp", "sum", 0, 2, "v"), tensor(m * 4, 4), tensor(m * 2, 4)),
    (lambda x: C.reduce_scatter(x, "tp", "sum", 0, 2, "v"), tensor(m, 4), tensor(m // 2, 4)),
    (lambda x: C.all_to_all(x, "tp", 1, 0, 2, "v"), tensor(m, 4), tensor(m * 2, 2)),
    (lambda x: C.all_to_all(x, "tp", 1, 1, 2, "v"), tensor(m, 4), tensor(m, 4)),
    (lambda x: C.permute(x, "tp", [(0, 1)], 2, "v"), tensor(m, 4), tensor(m, 4)),
    (lambda x: C.broadcast(x, "tp", 1, 2, "v"), tensor(), tensor()),
    (lambda x: C.all_gather(x, "tp", 0, 2, "v"), relax.TensorType(dtype="int8", ndim=2), relax.TensorType(dtype="int8", ndim=2)),
    (lambda x: C.axis_index("tp", 2), tensor(m), relax.TensorType((), "int64")),
]


@pytest.mark.parametrize("case", range(len(TYPES)))
def test_types(case: int) -> None:
    build, given, expected = TYPES[case]
    tvm.ir.assert_structural_equal(inferred(build, given), expected)


ERRORS = [
    (
        lambda x: C.all_reduce(x, "tp", "mean", 2, "lv3"),
        "R.spmd.all_reduce of 'lv3': there is no reduction 'mean'. Kinds are sum, max, min, prod.",
    ),
    (
        lambda x: C.all_gather(x, "tp", 2, 2, "lv3"),
        "R.spmd.all_gather of 'lv3': there is no dimension 2 in a tensor of 2 dimensions.",
    ),
    (
        lambda x: C.reduce_scatter(x, "tp", "sum", 1, 4, "lv3"),
        "R.spmd.reduce_scatter of 'lv3': dimension 1 has size 6, and the 4 workers of mesh axis 'tp' do not divide it. "
        "Pad it to a multiple first.",
    ),
    (
        lambda x: C.all_to_all(x, "tp", 1, 1, 4, "lv3"),
        "R.spmd.all_to_all of 'lv3': dimension 1 has size 6, and the 4 workers of mesh axis 'tp' do not divide it. "
        "Pad it to a multiple first.",
    ),
    (
        lambda x: C.broadcast(x, "tp", 2, 2, "lv3"),
        "R.spmd.broadcast of 'lv3': position 2 is not on mesh axis 'tp' of 2 workers.",
    ),
    (
        lambda x: C.permute(x, "tp", [(0, 2)], 2, "lv3"),
        "R.spmd.permute of 'lv3': (0, 2) is no (source, target) pair of positions on mesh axis 'tp' of 2 workers.",
    ),
    (
        lambda x: C.permute(x, "tp", [(0, 1), (1, 1)], 2, "lv3"),
        "R.spmd.permute of 'lv3': position 1 is the target of two pairs. Each position sends at most once and receives at most once.",
    ),
    (lambda x: C.axis_index("tp", 0), "R.spmd.axis_index: mesh axis 'tp' has 0 workers."),
    (
        lambda x: C.all_reduce(relax.ShapeExpr([1]), "tp", "sum", 2, "lv3"),
        "R.spmd.all_reduce of 'lv3': it takes a tensor or a tuple of tensors, and its argument is R.Shape([1]).",
    ),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors(case: int) -> None:
    build, text = ERRORS[case]
    with pytest.raises(ShardingError) as error:
        inferred(build, tensor(4, 6))
    assert str(error.value).splitlines()[0] == text


def test_import_starts_nothing() -> None:
    code = """
import sys, threading
import tvm, numpy, ml_dtypes
import spmd.collectives
assert threading.active_count() == 1 and "spmd.collectives.threads" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
