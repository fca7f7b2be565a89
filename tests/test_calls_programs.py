"""Calls of every kind in whole programs: private functions, packed functions, kernels, control flow, and odd signatures."""

import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P
from spmd.ir.inline import inline_private, inlined
from spmd.testing import assert_equivalent


@I.ir_module
class Layers:
    @R.function(private=True)
    def layer(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")):
        with R.dataflow():
            y = R.matmul(x, w)
            z = R.nn.relu(y)
            R.output(z)
        return z

    @R.function(private=True)
    def two(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")):
        cls = Layers
        y = cls.layer(x, w)
        return (y, x)

    @R.function
    def main(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")):
        cls = Layers
        with R.dataflow():
            a = cls.layer(x, w)
            b = cls.layer(a, w)
            R.output(b)
        c = cls.two(b, w)
        return R.add(c[0], c[1])


def test_private_functions_are_inlined_and_sharded():
    before = tvm.ir.save_json(Layers)
    sharded = assert_equivalent(Layers, 3, {"main.w": P(None, "tp")})
    assert not sharded.plan.notes
    assert [c.op for c in sharded.plan.choices["main"]].count("relax.matmul") == 3
    assert tvm.ir.save_json(Layers) == before, "the module itself stays as it was"


def test_inlining_is_a_pass():
    tvm.ir.assert_structural_equal(inline_private()(Layers)["main"], inlined(Layers)["main"])
    assert "cls.layer" not in inlined(Layers)["main"].script()


@I.ir_module
class Recursive:
    @R.function(private=True)
    def halve(x: R.Tensor((4,), "float32"), n: R.Tensor((), "int64")) -> R.Tensor((4,), "float32"):
        cls = Recursive
        more = R.greater(n, R.const(0, "int64"))
        if more:
            left = R.subtract(n, R.const(1, "int64"))
            half = R.multiply(x, R.const(0.5, "float32"))
            result = cls.halve(half, left)
        else:
            result = x
        return result

    @R.function
    def main(x: R.Tensor((4,), "float32")):
        cls = Recursive
        y = cls.halve(x, R.const(3, "int64"))
        return R.exp(y)


def test_a_recursive_function_is_replicated_with_a_note():
    sharded = assert_equivalent(Recursive, 2)
    assert any("halve" in note for note in sharded.plan.notes)


@tvm_ffi.register_global_func("test.scaled_product", override=True)
def scaled_product(a, b, out):
    out.copyfrom(a.numpy() @ b.numpy() * 2)


@tvm_ffi.register_global_func("test.halved", override=True)
def halved(a):
    return tvm.runtime.tensor(a.numpy() / 2)


@tvm_ffi.register_global_func("test.doubled_in_place", override=True)
def doubled_in_place(a):
    a.copyfrom(a.numpy() * 2)
    return a


@pytest.fixture
def rules(monkeypatch):
    """Rules that are forgotten after the test."""
    from spmd.rules import registry

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    spmd.rule("test.scaled_product", expression="m k, k n -> m n")
    spmd.rule("test.halved", expression="... -> ...")
    spmd.rule("test.doubled_in_place", expression="... -> ...")


@I.ir_module
class Packed:
    @R.function
    def main(x: R.Tensor((5, 8), "float32"), w: R.Tensor((8, 6), "float32")):
        with R.dataflow():
            y = R.call_dps_packed("test.scaled_product", (x, w), out_ty=R.Tensor((5, 6), "float32"))
            z = R.call_pure_packed("test.halved", y, ty_args=(R.Tensor((5, 6), "float32"),))
            u = R.exp(z)
            v = R.call_inplace_packed("test.doubled_in_place", u, inplace_indices=[0], ty_args=(R.Tensor((5, 6), "float32"),))
            R.output(v)
        return v


@pytest.mark.parametrize("spec", [P("tp", None), P(None, "tp")])
def test_a_packed_function_with_a_rule_is_split(rules, spec):
    sharded = assert_equivalent(Packed, 2, {"main.x": spec})
    assert not sharded.plan.notes
    assert dict(sharded.plan.choices["main"][0].splits), "the first call runs split"


def test_a_packed_function_without_a_rule_is_replicated_with_a_note():
    sharded = assert_equivalent(Packed, 2)
    for name in ("test.scaled_product", "test.halved", "test.doubled_in_place"):
        assert any(f"{name} has no rule" in note for note in sharded.plan.notes)


def test_a_claim_about_a_shape_that_is_no_tensor():
    """A match_cast of what shape_of gives names the sizes of a tensor; one of a tuple is about several tensors."""
    builder, x, y = relax.BlockBuilder(), *(relax.Var(n, relax.TensorType((5, 4), "float32")) for n in "xy")
    rows, columns = (tvm.tirx.Var(n, "int64") for n in ("rows", "columns"))
    with builder.function("named", [x]):
        builder.match_cast(builder.emit(relax.op.shape_of(x)), relax.ShapeType([rows, columns]))
        ones = builder.emit(relax.op.broadcast_to(relax.const(1.0, "float32"), relax.ShapeExpr([columns, rows])))
        builder.emit_func_output(relax.Tuple([builder.emit(relax.op.exp(x)), ones]))
    x, y = (relax.Var(n, relax.TensorType((5, 4), "float32")) for n in "xy")
    with builder.function("both", [x, y]):
        pair = builder.match_cast(relax.Tuple([x, y]), relax.TupleType([x.ty, y.ty]))
        parts = [builder.emit(relax.TupleGetItem(pair, i)) for i in range(2)]
        builder.emit_func_output(builder.emit(relax.op.add(*parts)))
    sharded = assert_equivalent(builder.finalize(), 2, {"named.x": P("tp", None)})
    assert str(sharded.plan.values["named.x"]) == "[tp, -]"
