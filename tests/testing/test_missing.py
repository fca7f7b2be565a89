"""What `find_missing` finds where a rule says less than is true, and what it names as untried."""

import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd.rules import registry
from spmd.testing import find_missing
from spmd.testing.resized import Unfit, Untried, resized
from tests.operators import kernels, writes

BOTH_WAYS = {("[tp, -]", "[tp, -]"), ("[-, tp]", "[-, tp]")}


def without_rules(mod):
    """The module with kernels that no rule is read off: they say that they are scheduled."""
    functions = {gv: f.with_attr("tirx.is_scheduled", True) if isinstance(f, tvm.tirx.PrimFunc) else f for gv, f in mod.functions_items()}
    return tvm.IRModule(functions)


def only(mod, *names):
    """These functions of a module, with all kernels."""
    return tvm.IRModule({gv: f for gv, f in mod.functions_items() if gv.name_hint in names or isinstance(f, tvm.tirx.PrimFunc)})


def found(mod, **options):
    verdicts = find_missing(mod, 2, **options)
    assert {v.status for v in verdicts} <= {"missing", "untried"}, verdicts
    return {(*v.inputs, *v.outputs) for v in verdicts if v.status == "missing"}


@I.ir_module(s_tir=True)
class Fixed:
    @T.prim_func(private=True, s_tir=True)
    def doubled(A: T.Buffer((6, 4), "float64"), B: T.Buffer((6, 4), "float64")):
        for i, j in T.grid(6, 4):
            with T.sblock("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] * T.float64(2)

    @R.function
    def main(x: R.Tensor((6, 4), "float64")):
        return R.call_tir(Fixed.doubled, (x,), out_ty=R.Tensor((6, 4), "float64"))


def test_kernels_of_known_sizes():
    assert found(without_rules(Fixed)) == BOTH_WAYS
    assert not found(Fixed)


def test_kernels_of_any_size_that_take_one_as_a_number():
    assert found(without_rules(only(kernels.Written, "w_scaled"))) == {("[-, tp]", "[-, tp]")}


def test_kernels_that_write_in_place():
    mod = without_rules(only(writes.MODULE, "w_running_any", "w_turned_any", "w_put_any"))
    verdicts = [v for v in find_missing(mod, 2, arguments=writes.ARGUMENTS) if v.status == "missing"]
    assert {(v.function, v.inputs, v.outputs) for v in verdicts} == {
        ("w_running_any", ("[tp]", "[tp, -]"), ("[tp]",)),
        ("w_turned_any", ("[tp, -]", "[-, tp]"), ("[tp, -]",)),
        ("w_turned_any", ("[-, tp]", "[tp, -]"), ("[-, tp]",)),
        ("w_put_any", ("[-, tp, -]", "[-, tp, -]", "[-]"), ("[-, tp, -]",)),
        ("w_put_any", ("[-, -, tp]", "[-, -, tp]", "[-]"), ("[-, -, tp]",)),
    }


def test_what_cannot_be_tried_is_named():
    verdicts = find_missing(only(writes.MODULE, "w_mirrored", "w_put_any", "w_put"), 2, arguments=writes.ARGUMENTS)
    assert {(v.function, v.status, v.detail) for v in verdicts} == {
        ("w_mirrored", "untried", "the index of 'store' 5 - vr is not known to stay below 3 on a shard"),
        ("w_put_any", "untried", "the index of 'store' where[vr] is not known to stay below 4 on a shard"),
        ("w_put", "untried", "two dimensions of size 4 are split in two ways, and it does not tell them apart"),
    }


@I.ir_module
class Unchecked:
    """Operators whose kernels go where they are told, also past the end of a shard."""

    @R.function
    def scattered(x: R.Tensor((4, 5), "float32"), i: R.Tensor((3, 5), "int64"), u: R.Tensor((3, 5), "float32")):
        return R.scatter_elements(x, i, u, axis=0, reduction="min")

    @R.function
    def kept(x: R.Tensor((2, 6, 6), "float32"), v: R.Tensor((2,), "int32"), i: R.Tensor((2, 6), "int32")):
        return R.vision.non_max_suppression(x, v, i, return_indices=False)


def test_what_would_write_past_the_end_is_not_tried(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", {})
    assert {(v.function, v.status, v.detail) for v in find_missing(Unchecked, 2)} == {
        ("scattered", "untried", "its indices may reach beyond a shard of what it writes to, which TVM does not check"),
        ("kept", "untried", "TVM does not check that the shapes of what it takes fit together"),
    }


def test_several_results():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((6, 4), "float64")):
            return R.call_pure_packed("tests.missing.two", x, ty_args=(R.Tuple(R.Tensor((6, 4), "float64"), R.Tensor((4, 6), "float64")),))

    @tvm_ffi.register_global_func("tests.missing.two", override=True)
    def two(a):
        return tvm.runtime.convert([tvm.runtime.tensor(a.numpy() + 1), tvm.runtime.tensor(a.numpy().T.copy())])

    assert found(Module) == {("[tp, -]", "[tp, -]", "[-, tp]"), ("[-, tp]", "[-, tp]", "[tp, -]")}


def test_packed_functions_that_write_in_place():
    @tvm_ffi.register_global_func("tests.missing.added", override=True)
    def added(a, b):
        a.copyfrom(a.numpy() + b.numpy())
        return a

    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((6, 4), "float64"), y: R.Tensor((6, 4), "float64")):
            return R.call_inplace_packed("tests.missing.added", x, y, inplace_indices=[0], ty_args=(R.Tensor((6, 4), "float64"),))

    assert found(Module) == {("[tp, -]", "[tp, -]", "[tp, -]"), ("[-, tp]", "[-, tp]", "[-, tp]")}


def test_shards_that_do_not_fit():
    turned, put = (next(f for gv, f in writes.MODULE.functions_items() if gv.name_hint == name) for name in ("turned_any", "put"))
    with pytest.raises(Unfit):
        resized(turned, [((6, 4), (3, 4)), ((4, 6), (4, 6))])
    with pytest.raises(Untried, match="two dimensions of size 4"):
        resized(put, [((9, 4, 7), (9, 2, 7)), ((3, 4, 7), (3, 4, 7)), ((3,), (3,))])
    local, _ = resized(put, [((9, 4, 7), (9, 2, 7)), ((3, 4, 7), (3, 2, 7)), ((3,), (3,))])
    assert "T.grid(3, 2, 7)" in local.script()


def test_what_is_symbolic_is_named():
    builder, size = relax.BlockBuilder(), tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((size, 4), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.exp(x)))
    (verdict,) = find_missing(builder.get(), spmd.Mesh(tp=2))
    assert (verdict.status, verdict.detail) == ("untried", "its sizes are symbolic")
