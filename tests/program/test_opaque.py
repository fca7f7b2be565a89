"""Functions of other compilers, loops with effects, functions inside of others: what notes say of them, and hints in them."""

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, ShardingError
from spmd.testing import FREE_LINKS


@I.ir_module
class Loop:
    """A layer that calls itself until it was there three times, with a packed function that nobody knows."""

    @R.function(private=True)
    def layer(i: R.Tensor((), "int32"), h: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")) -> R.Tensor((4, 8), "float32"):
        cls = Loop
        end: R.Tensor((), "bool") = R.greater_equal(i, R.const(3, "int32"))
        if end:
            out: R.Tensor((4, 8), "float32") = h
        else:
            a: R.Tensor((4, 8), "float32") = R.call_pure_packed("test.product", h, w, ty_args=(R.Tensor((4, 8), "float32"),))
            j: R.Tensor((), "int32") = R.add(i, R.const(1, "int32"))
            out: R.Tensor((4, 8), "float32") = cls.layer(j, a, w)
        return out

    @R.function
    def main(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")) -> R.Tensor((4, 8), "float32"):
        cls = Loop
        y: R.Tensor((4, 8), "float32") = cls.layer(R.const(0, "int32"), x, w)
        return y


@I.ir_module
class Composed:
    """A product that another compiler takes."""

    @R.function(private=True)
    def fused(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")) -> R.Tensor((4, 8), "float32"):
        R.func_attr({"Composite": "cutlass.matmul"})
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y

    @R.function
    def main(x: R.Tensor((4, 8), "float32"), w: R.Tensor((8, 8), "float32")) -> R.Tensor((4, 8), "float32"):
        cls = Composed
        y: R.Tensor((4, 8), "float32") = cls.fused(x, w)
        return y


def hinted(mod, name):
    """The module with a hint on the product of this function."""

    @relax.expr_functor.mutator
    class Hint(relax.expr_functor.PyExprMutator):
        def visit_call_(self, call):
            if isinstance(call.op, tvm.ir.Op) and call.op.name in ("relax.matmul", "relax.call_pure_packed"):
                return spmd.hint(self.builder_.emit(call), P(None, "tp"))
            return super().visit_call_(call)

    made = tvm.IRModule(dict(mod.functions_items()))
    made.update_func(made.get_global_var(name), Hint(mod).visit_expr(mod[name]))
    return made


@pytest.mark.parametrize(
    ("mod", "text"),
    [
        (Loop, "layer is replicated, as it calls itself: a loop or a recursion runs whole on every worker"),
        (Composed, "fused is replicated, as it is taken as it is by another compiler (Composite 'cutlass.matmul')"),
    ],
    ids=["loop", "composite"],
)
def test_the_note_says_why(mod, text):
    notes = spmd.plan(mod, 2, profile=FREE_LINKS).notes
    assert any(text in note for note in notes), notes


@pytest.mark.parametrize(
    ("mod", "name", "text"),
    [
        (
            Loop,
            "layer",
            r"function 'layer': it has the hint spmd\.hint\(\w+, \.\.\.\), which nobody obeys, as it calls itself",
        ),
        (Composed, "fused", r"function 'fused': it has the hint .* taken as it is by another compiler"),
    ],
    ids=["loop", "composite"],
)
def test_a_hint_that_nobody_would_obey(mod, name, text):
    with pytest.raises(ShardingError, match=text):
        spmd.shard(hinted(mod, name), 2)


def test_a_hint_in_a_private_function_is_obeyed():
    """It is inlined."""
    mod = hinted(Composed, "fused")
    mod.update_func(mod.get_global_var("fused"), mod["fused"].without_attr("Composite"))
    plan = spmd.plan(mod, 2)
    assert any("spmd.hint asks for P(None, 'tp')" in reason for reason in plan.reasons.values())
