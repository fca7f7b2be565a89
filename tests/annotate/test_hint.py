"""Hints inside a model: they change no result, survive text and JSON, and are obeyed."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.frontend import nn
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, ShardingError
from spmd.annotate.hint import HINT, read_hint
from spmd.testing import assert_equivalent, simulate


def hinted_module(spec=None, size=16):
    builder = relax.BlockBuilder()
    x, w = relax.Var("x", relax.TensorType((4, 8), "float32")), relax.Var("w", relax.TensorType((8, size), "float32"))
    with builder.function("main", [x, w], {"num_input": 1}):
        with builder.dataflow():
            y = builder.emit(relax.op.matmul(x, w), "y")
            if spec is not None:
                y = builder.emit(spmd.hint(y, spec), "z")
            out = builder.emit_output(relax.op.tanh(y))
        builder.emit_func_output(out)
    return builder.finalize()


class Layer(nn.Module):
    """One product with a hint on its result."""

    def __init__(self):
        self.linear = nn.Linear(8, 16, bias=False)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return nn.op.silu(spmd.hint(self.linear(x), P(None, "tp")))


@pytest.mark.parametrize(
    "spec",
    [
        *[P("tp", None), P(..., "tp"), P(None, ("tp", 12, 4)), P(("dp", "tp"), None), P(None, None)],
        *[P("?", "tp"), P("tp", others=None), P(others=None), P(..., gather=False), P("tp", "?", gather=False)],
    ],
)
def test_a_hint_carries_its_spec(spec):
    call = spmd.hint(relax.Var("x", relax.TensorType((4, 16), "float32")), spec)
    assert call.op.name == HINT
    assert read_hint(call) == spec


def test_hints_survive_text_json_and_passes():
    mod = hinted_module(P(None, ("tp", 12, 4)))
    assert "R.spmd.hint(y" in mod.script()
    tvm.ir.assert_structural_equal(tvm.script.from_source(mod.script()), mod)
    again = tvm.ir.load_json(tvm.ir.save_json(mod))
    tvm.ir.assert_structural_equal(again, mod)
    passes = tvm.ir.transform.Sequential(
        [relax.transform.Normalize(), relax.transform.CanonicalizeBindings(), relax.transform.FoldConstant()]
    )
    calls = [b.value for b in passes(mod)["main"].body.blocks[0].bindings if isinstance(b.value, tvm.ir.Call)]
    hints = [c for c in calls if c.op.name == HINT]
    assert len(hints) == 1 and read_hint(hints[0]) == P(None, ("tp", 12, 4))


def test_a_module_with_hints_runs_unsharded():
    plain, hinted = simulate(hinted_module()), simulate(hinted_module(P(None, "tp")))
    np.testing.assert_array_equal(hinted["main"], plain["main"])


@pytest.mark.parametrize(
    ("spec", "sharding"), [(P(None, "tp"), "[-, tp]"), (P("tp", None), "[tp, -]"), (P(None, ("tp", 12, 4)), "[-, tp:12|4]")]
)
def test_a_hint_is_obeyed_and_leaves_no_trace(spec, sharding):
    sharded = assert_equivalent(hinted_module(spec), 2)
    assert str(sharded.plan.values["main.z"]) == sharding
    assert sharded.plan.reasons["main.z"] == f"spmd.hint asks for {spec}"
    assert "hint" not in sharded.mod.script()


def test_a_hint_that_leaves_a_choice():
    sharded = assert_equivalent(hinted_module(P("?", "tp", gather=False)), spmd.Mesh(dp=2, tp=2))
    assert str(sharded.plan.values["main.z"]) in ("[-, tp]", "[dp, tp]")
    assert sharded.plan.reasons["main.z"] == "spmd.hint asks for P('?', 'tp', gather=False)"


def test_a_hint_on_an_nn_tensor():
    mod, _ = Layer().export_tvm({"forward": {"x": nn.spec.Tensor([4, 8], "float32"), "$": {"param_mode": "plain", "effect_mode": "none"}}})
    sharded = assert_equivalent(mod, 2)
    (name,) = [n for n, why in sharded.plan.reasons.items() if why == "spmd.hint asks for P(None, 'tp')"]
    assert str(sharded.plan.values[name]) == "[-, tp]"
    assert str(sharded.plan.params["linear.weight"]) == "[tp, -]"


def test_a_bad_hint_is_refused_by_the_name_of_its_value():
    with pytest.raises(ShardingError, match=r"hint on 'y' in 'main': P\('dp', None\) names mesh axis 'dp'"):
        spmd.plan(hinted_module(P("dp", None)), 2)
    with pytest.raises(ShardingError, match=r"hint on 'y' in 'main': P\('tp'\) has 1 entries"):
        spmd.plan(hinted_module(P("tp")), 2)


def unused(last):
    """A hint on `y`, whose result only `last` reads, if anything: what is returned reads `y` itself."""
    builder, types = relax.BlockBuilder(), [relax.TensorType(shape, "float32") for shape in ((4, 8), (8, 16))]
    params = [relax.Var("x", types[0]), relax.Var("w", types[1])]
    with builder.function("main", params, {"num_input": 1}):
        with builder.dataflow():
            y = builder.emit(relax.op.matmul(*params), "y")
            z = builder.emit(spmd.hint(y, P(None, "tp")), "z")
            if last is not None:
                builder.emit(last(z), "dead")
            out = builder.emit_output(relax.op.tanh(y))
        builder.emit_func_output(out)
    return builder.finalize()


@pytest.mark.parametrize("last", [None, relax.op.exp, lambda z: spmd.hint(z, P("tp", None))])
def test_a_hint_whose_result_nothing_uses_is_named(last, caplog):
    note = "the hint on 'y' in 'main' is not obeyed, as nothing uses its result 'z'; let what reads 'y' read the result of the hint"
    assert note in spmd.plan(unused(last), 2).notes
    assert note in caplog.text
    assert any(note in text for text in assert_equivalent(unused(last), 2).plan.notes)


def test_hints_whose_results_are_used_have_no_note():
    assert not [note for note in spmd.plan(hinted_module(P(None, "tp")), 2).notes if "hint" in note]


def test_an_unused_hint_in_a_private_function_and_in_a_branch_is_named():
    @I.ir_module
    class Module:
        @R.function(private=True)
        def inner(x: R.Tensor((4, 8), "float32")) -> R.Tensor((4, 8), "float32"):
            unused = R.spmd.hint(x, spec='["tp", null]')  # noqa: F841
            return R.tanh(x)

        @R.function
        def main(x: R.Tensor((4, 8), "float32"), c: R.Tensor((), "bool")):
            cls = Module
            a = cls.inner(x)
            if c:
                unused = R.spmd.hint(a, spec='["tp", null]')  # noqa: F841
                d = R.exp(a)
            else:
                d = R.tanh(a)
            return d

    notes = [note for note in spmd.plan(Module, 2).notes if "is not obeyed" in note]
    assert len(notes) == 2, notes


def test_a_spec_that_contradicts_a_hint():
    with pytest.raises(
        ShardingError, match=r"main\.z: specs\['main\.z'\] asks for P\('tp', None\), and spmd\.hint asks for P\(None, 'tp'\)"
    ):
        spmd.plan(hinted_module(P(None, "tp")), 2, {"main.z": P("tp", None)})
