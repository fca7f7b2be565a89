"""Binding: the program before and after, its slots, and that what it computes stays the same."""

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from spmd.collectives import Site, Slot, Slots, bind
from spmd.errors import ShardingError
from spmd.ir.per_worker import check_whole


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), y: R.Tensor((2, 6), "float16")):
        with R.dataflow():
            a = R.spmd.all_reduce(x, axis="tp", kind="sum", workers=2, value="a")
            b = R.spmd.all_reduce(a, axis="tp", kind="sum", workers=2, value="b")
            c = R.spmd.all_gather((b, y), axis="dp", dim=1, workers=3, value="c, d")
            e = R.spmd.permute(y, axis="tp", pairs=[(0, 1), (1, 0)], workers=2, value="e")
            i = R.spmd.axis_index(axis="tp", workers=2)
            R.output(c, e, i)
        return (c, e, i)


@I.ir_module
class After:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), y: R.Tensor((2, 6), "float16")):
        n = T.int64()
        with R.dataflow():
            a = R.call_dps_packed("spmd.all_reduce.tp.sum.float32", (R.prim_value(0), x), out_ty=R.Tensor((n, 4), "float32"))
            b = R.call_dps_packed("spmd.all_reduce.tp.sum.float32", (R.prim_value(1), a), out_ty=R.Tensor((n, 4), "float32"))
            c = R.call_dps_packed(
                "spmd.all_gather.dp.1.float32+float16",
                (R.prim_value(2), b, y),
                out_ty=[R.Tensor((n, 12), "float32"), R.Tensor((2, 18), "float16")],
            )
            e = R.call_dps_packed("spmd.permute.tp.0-1-1-0.float16", (R.prim_value(3), y), out_ty=R.Tensor((2, 6), "float16"))
            i = R.call_dps_packed("spmd.axis_index.tp.int64", R.tuple(), out_ty=R.Tensor((), "int64"))
            R.output(c, e, i)
        return (c, e, i)


SLOTS = Slots(
    (
        Slot("all_reduce", "tp", 2, "float32", kind="sum"),
        Slot("all_gather", "dp", 3, "float32+float16", dims=(1,)),
        Slot("permute", "tp", 2, "float16", pairs=(0, 1, 1, 0)),
        Slot("axis_index", "tp", 2, "int64"),
    ),
    (
        Site(0, ("a",), ("float32",)),
        Site(0, ("b",), ("float32",)),
        Site(1, ("c", "d"), ("float32", "float16")),
        Site(2, ("e",), ("float16",)),
    ),
)


def test_a_collective_becomes_a_call_by_the_name_of_its_slot() -> None:
    text = Before.script()
    bound, slots = bind(Before)
    tvm.ir.assert_structural_equal(bound, After)
    assert slots == SLOTS
    assert Before.script() == text, "what is given stays as it is"


def test_a_program_without_collectives_stays_as_it_is() -> None:
    mod = tvm.IRModule({"main": After["main"]})
    assert bind(mod) == (mod, Slots())


def test_a_slot_in_words() -> None:
    assert SLOTS.told(1, "float32 [2, 4]") == "all_reduce('sum') of 'b', float32 [2, 4], over axis 'tp'"
    assert SLOTS.told(3) == "permute((0, 1, 1, 0)) of 'e', over axis 'tp'"


@I.ir_module
class Rows:
    """`Before` with rows: along the first dimension, a bundle in one call, which its moves stand around."""

    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), y: R.Tensor((2, 6), "float16")):
        n = T.int64()
        with R.dataflow():
            a = R.call_dps_packed("spmd.all_reduce.tp.sum.float32", (R.prim_value(0), x), out_ty=R.Tensor((n, 4), "float32"))
            b = R.call_dps_packed("spmd.all_reduce.tp.sum.float32", (R.prim_value(1), a), out_ty=R.Tensor((n, 4), "float32"))
            g = R.call_dps_packed(
                "spmd.all_gather.dp.0.float32+float16",
                (R.prim_value(2), b, y),
                out_ty=[R.Tensor((n * 3, 4), "float32"), R.Tensor((6, 6), "float16")],
            )
            b1: R.Tensor((n * 3, 4), "float32") = g[0]
            d1: R.Tensor((6, 6), "float16") = g[1]
            b2: R.Tensor((3, n, 4), "float32") = R.reshape(b1, R.shape([3, n, 4]))
            b3: R.Tensor((n, 3, 4), "float32") = R.permute_dims(b2, axes=[1, 0, 2])
            c1: R.Tensor((n, 12), "float32") = R.reshape(b3, R.shape([n, 12]))
            d2: R.Tensor((3, 2, 6), "float16") = R.reshape(d1, R.shape([3, 2, 6]))
            d3: R.Tensor((2, 3, 6), "float16") = R.permute_dims(d2, axes=[1, 0, 2])
            c2: R.Tensor((2, 18), "float16") = R.reshape(d3, R.shape([2, 18]))
            c = (c1, c2)
            e = R.call_dps_packed("spmd.permute.tp.0-1-1-0.float16", (R.prim_value(3), y), out_ty=R.Tensor((2, 6), "float16"))
            i = R.call_dps_packed("spmd.axis_index.tp.int64", R.tuple(), out_ty=R.Tensor((), "int64"))
            R.output(c, e, i)
        return (c, e, i)


def test_rows() -> None:
    bound, slots = bind(Before, rows=True)
    tvm.ir.assert_structural_equal(relax.transform.CanonicalizeBindings()(bound), relax.transform.CanonicalizeBindings()(Rows))
    assert [slots.of(i).name for i in range(4)] == [
        "spmd.all_reduce.tp.sum.float32",
        "spmd.all_reduce.tp.sum.float32",
        "spmd.all_gather.dp.0.float32+float16",
        "spmd.permute.tp.0-1-1-0.float16",
    ]
    assert slots.sites[2] == Site(1, ("c", "d"), ("float32", "float16"))


def test_what_has_no_elements_goes_apart_from_its_bundle() -> None:
    """It is gathered along the dimension that it is, and the others along their first one."""
    xs = [relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(((2, 3), (0, 3), (2, 4)))]
    builder = relax.BlockBuilder()
    with builder.function("main", xs):
        builder.emit_func_output(builder.emit(R.spmd.all_gather(xs, axis="tp", dim=1, workers=2, value="a, b, c")))
    _, slots = bind(builder.get(), rows=True)
    assert [(site.values, site.bundle) for site in slots.sites] == [(("a", "c"), 1), (("b",), 1)]


def test_what_moves_nothing_in_memory_is_no_copy() -> None:
    x = relax.Var("x", relax.TensorType((1, 1, 8), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(R.spmd.all_gather(x, axis="tp", dim=2, workers=2, value="x")))
    text = bind(builder.get(), rows=True)[0].script()
    assert "R.reshape" in text and "permute_dims" not in text


@pytest.mark.parametrize(("dtype", "wide"), [("float16", "float32"), ("bfloat16", "float32"), ("uint16", "uint32")])
def test_narrow_sums_are_wide(dtype: str, wide: str) -> None:
    x = relax.Var("x", relax.TensorType((4,), dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(R.spmd.all_reduce(x, axis="tp", kind="sum", workers=2, value="x")))
    _, slots = bind(builder.get(), rows=True)
    assert slots.slots == (Slot("all_reduce", "tp", 2, wide, kind="sum"),)
    assert slots.sites == (Site(0, ("x",), (dtype,)),), "a trace has the type of the value"


def test_a_type_that_no_library_reduces() -> None:
    x = relax.Var("x", relax.TensorType((4,), "float8_e8m0fnu"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(R.spmd.all_reduce(x, axis="tp", kind="max", workers=2, value="scales")))
    with pytest.raises(ShardingError, match=r"R\.spmd\.all_reduce of 'scales': this backend cannot reduce float8_e8m0fnu\."):
        bind(builder.get(), rows=True)


def test_a_bound_program_is_that_of_a_worker() -> None:
    with pytest.raises(ShardingError, match=r"already, it has the collective spmd\.all_reduce\.tp\.sum\.float32"):
        check_whole(After, "shard()")
