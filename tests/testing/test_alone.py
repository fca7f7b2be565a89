"""Modules of several operators, as users have them: each operator is proved alone."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import ShardingError
from spmd.rules import registry
from spmd.testing import find_missing, prove
from spmd.testing.alone import operators_alone


@I.ir_module
class Several:
    """Operators that take tuples, give tuples, take a value twice and a constant; one is there twice."""

    @R.function
    def main(x: R.Tensor((6, 8), "float32"), w: R.Tensor((8, 12), "float32")):
        with R.dataflow():
            y = R.matmul(x, w)
            parts = R.split(y, 2, axis=1)
            square = R.multiply(parts[0], parts[0])
            joined = R.concat((square, parts[1]), axis=1)
            more = R.add(joined, R.const(1.0, "float32"))
            again = R.matmul(x, w)
            R.output(more, again)
        return (more, again)

    @R.function
    def rows(x: R.Tensor(("n", 8), "float32")):
        with R.dataflow():
            y = R.tanh(x)
            z = R.nn.relu(y)
            R.output(z)
        return z

    @R.function
    def one(x: R.Tensor((4,), "float32")):
        with R.dataflow():
            y = R.exp(x)
            R.output(y)
        return y


def test_functions_are_taken_apart():
    alone, untried = operators_alone(Several)
    names = {v.name_hint for v, _ in alone.functions_items()}
    assert names == {"main_y", "main_parts", "main_square", "main_joined", "main_more", "rows_y", "rows_z", "one"} and not untried
    relax.analysis.well_formed(alone)
    assert len(alone["main_square"].params) in (1, 2) and alone["one"].same_as(Several["one"])


def test_constants_of_one_call_stay_apart():
    x = relax.Var("x", relax.TensorType([4], "bool"))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        with bb.dataflow():
            y = bb.emit(relax.op.where(relax.const([True, False, True, True]), relax.const(1.0, "float32"), relax.const(2.0, "float32")))
            z = bb.emit_output(relax.op.where(x, y, relax.const(3.0, "float32")))
        bb.emit_func_output(z)
    alone, _ = operators_alone(bb.finalize())
    kinds = [[(p.ty.dtype, len(p.ty.shape.values)) for p in alone[name].params] for name in ("main_lv", "main_gv")]
    assert kinds[0] == [("bool", 1), ("float32", 0), ("float32", 0)] and kinds[1][0] == ("bool", 1) and len(kinds[1]) == 3


def test_workers_cut_constants_out_for_themselves():
    x = relax.Var("x", relax.TensorType([1, 4, 3], "float32"))
    weight, bias = (relax.const(np.arange(4, dtype="float32") - i) for i in range(2))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        bb.emit_func_output(bb.emit(relax.op.nn.instance_norm(x, weight, bias, 1, [0, 2])))
    verdicts = {v.inputs: v.status for v in prove(bb.finalize(), 2)}
    assert verdicts["[-, tp, -]", "[tp]", "[tp]"] == "right" and set(verdicts.values()) == {"right"}


def test_each_operator_is_proved():
    verdicts = prove(Several, 2)
    assert {v.status for v in verdicts} == {"right"} and {v.op for v in verdicts} >= {"relax.matmul", "relax.split", "relax.concat"}
    assert find_missing(Several, 2, most=8) is not None


@pytest.mark.parametrize(("text", "details"), [("a b -> a b", {}), ("a b -> a b", {"zero": "all", "linear": ((0,),)})])
def test_a_wrong_rule_among_others_is_found(text, details):
    """The sum over rows of a packed function, said to work on each element alone."""
    name = "alone.sums"
    tvm.register_global_func(name, lambda x, out: out.copyfrom(x.numpy().cumsum(axis=0)), override=True)
    before = registry._RULES.copy()
    try:
        spmd.rule(name)(lambda op: op.bind(text, **details))
        bb = relax.BlockBuilder()
        x = relax.Var("x", relax.TensorType([6, 4], "float32"))
        with bb.function("main", [x]):
            with bb.dataflow():
                y = bb.emit(relax.op.tanh(x), "y")
                z = bb.emit(relax.op.call_dps_packed(name, [y], out_ty=relax.TensorType([6, 4], "float32")), "z")
                out = bb.emit_output(relax.op.exp(z), "out")
            bb.emit_func_output(out)
        verdicts = prove(bb.finalize(), 2)
        assert {v.op for v in verdicts if v.status == "wrong"} == {name}
        assert {v.status for v in verdicts if v.op != name} == {"right"}
    finally:
        registry._RULES.clear()
        registry._RULES.update(before)


@pytest.mark.parametrize(
    ("gives", "text"),
    [
        (lambda op: 3, r"rule of 'relax\.tanh': its function gives int 3\. Return op\.bind"),
        (lambda op: ["a -> a"], r"its function gives a list"),
        (lambda op: op.bind("a b c -> a b c"), r"a tensor of 2 dimensions stands where the rule has 3"),
        (lambda op: op.bind("a b, a b -> a b"), r"it has 2 inputs, the call has 1"),
        (lambda op: op.bind("a b -> a b", zeros="all"), r"a rule has no field 'zeros'\. Did you mean 'zero'"),
        (lambda op: op.bind("a b -> a b", zero="some"), r"zero is 'some'\. It is 'any', 'all' or ''"),
        (lambda op: op.bind("a b -> a", reduce="mean"), r"reduce is 'mean'\. It is one of sum, max, min, prod, or None"),
        (lambda op: op.bind("a b -> a b", linear=((1,),)), r"linear is \(\(1,\),\)\. It is sets of inputs, of 0 to 0"),
        (lambda op: op.bind(None), r"None is no expression"),
        (lambda op: op.bind("a b"), r"rule 'a b': it has no '->'"),
        (lambda op: "", r"rule '': it has no '->'"),
    ],
)
def test_rules_that_give_no_rule(gives, text):
    before = registry._RULES.copy()
    try:
        spmd.rule("relax.tanh")(gives)
        with pytest.raises(ShardingError, match=text):
            spmd.plan(Several, 2)
    finally:
        registry._RULES.clear()
        registry._RULES.update(before)
