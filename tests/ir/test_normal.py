"""Modules that are not in A-normal form are taken everywhere, and left as they are."""

import copy

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import P
from spmd.ir.normal import normalized
from spmd.testing import FREE_LINKS, assert_equivalent
from tests.programs import Mlp

VECTOR = relax.TensorType([4], "float32")


@I.ir_module
class Positions:
    """As TVM's importer of ONNX writes it."""

    @R.function
    def main(x: R.Tensor((4, 2), "bool")) -> R.Tensor(dtype="int64", ndim=2):
        found = T.int64()
        with R.dataflow():
            lv: R.Tensor((2, found), "int64") = R.match_cast(R.nonzero(x), R.Tensor((2, found), "int64"))
            gv: R.Tensor((2, found), "int64") = lv
            R.output(gv)
        return gv


@I.ir_module
class Sizes:
    """A shape from data, and a cast of a shape."""

    @R.function
    def main(x: R.Tensor((3, 4), "float32"), times: R.Tensor((2,), "int64")) -> R.Tensor(dtype="float32", ndim=2):
        a = T.int64()
        b = T.int64()
        with R.dataflow():
            lv: R.Shape([3, 4]) = R.match_cast(R.shape_of(R.negative(x)), R.Shape([3, 4]))
            whole: R.Tensor((2,), "int64") = R.shape_to_tensor(lv)
            sizes: R.Tensor((2,), "int64") = R.match_cast(
                R.where(R.less(times, R.const(1, "int64")), whole, times), R.Tensor((2,), "int64")
            )
            _: R.Shape([a, b]) = R.match_cast(R.tensor_to_shape(sizes), R.Shape([a, b]))
            gv: R.Tensor((a, b), "float32") = R.reshape(R.negative(x), R.shape([a, b]))
            R.output(gv)
        return gv


def argument(x):
    return op.add(op.multiply(x, x), op.sin(op.add(x, x)))


def in_tuples(x):
    return relax.Tuple([op.multiply(x, x), relax.Tuple([op.add(op.sin(x), x), x])])


def field(x):
    return relax.TupleGetItem(op.split(op.add(x, x), 2), 1)


def nested_field(x):
    return op.add(relax.TupleGetItem(relax.Tuple([x, op.sin(x)]), 1), x)


def condition(x):
    return relax.If(op.greater(op.sum(op.multiply(x, x)), relax.const(1.0)), op.sin(op.add(x, x)), x)


def branch_in_an_argument(x):
    return op.add(relax.If(op.greater(op.sum(x), relax.const(1.0)), op.sin(x), op.cos(op.add(x, x))), x)


def tuple_of_an_operator(x):
    return op.add(op.concat([op.strided_slice(x, [0], [0], [2]), op.strided_slice(x, [0], [2], [4])]), x)


def taken_name(x):
    """A variable of the function has the name that one of the new ones would get."""
    v = relax.Var("inner0", VECTOR)
    return relax.SeqExpr([relax.BindingBlock([relax.VarBinding(v, op.add(op.multiply(x, x), x))])], op.sin(v))


SHAPES = [argument, in_tuples, field, nested_field, condition, branch_in_an_argument, tuple_of_an_operator, taken_name]


def module(make):
    """A function whose body is what `make` makes of its parameter, as it is."""
    x = relax.Var("x", VECTOR)
    body = make(x)
    known = relax.transform.Normalize()(tvm.IRModule({"main": relax.Function([x], body, relax.AnyType())}))["main"].body.body.ty
    x = relax.Var("x", VECTOR)
    return tvm.IRModule({"main": relax.Function([x], make(x), known).with_attr("global_symbol", "main")})


@pytest.mark.parametrize("make", SHAPES)
@pytest.mark.parametrize("spec", [None, P("tp")], ids=["whole", "split"])
def test_calls_inside_of_other_expressions(make, spec):
    mod = module(make)
    before = copy.deepcopy(mod)
    assert_equivalent(mod, 2, {"main.x": spec} if spec else None)
    assert tvm_ffi.structural_equal(mod, before)


@pytest.mark.parametrize("mesh", [2, 3])
@pytest.mark.parametrize(
    ("mod", "arguments"),
    [
        (Positions, (np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool),)),
        (Sizes, (np.arange(12, dtype="float32").reshape(3, 4), np.array([2, 6], "int64"))),
    ],
    ids=["positions", "sizes"],
)
def test_a_call_inside_of_a_match_cast(mod, arguments, mesh):
    machine = relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())
    expected = machine["main"](*map(tvm.runtime.tensor, arguments)).numpy()
    with spmd.workers(spmd.shard(mod, mesh, profile=FREE_LINKS)) as w:
        np.testing.assert_array_equal(np.asarray(w["main"](*arguments)), expected)
    with spmd.workers(mod) as w:
        np.testing.assert_array_equal(np.asarray(w["main"](*arguments)), expected)


def test_the_halves_of_shard_and_the_passes_take_them_too():
    mod = module(argument)
    plan = spmd.plan(mod, 2, {"main.x": P("tp")})
    expected = spmd.shard(mod, 2, {"main.x": P("tp")}).mod.script()
    assert spmd.lower(mod, plan).script() == expected
    passes = tvm.transform.Sequential([spmd.transform.Propagate(2, {"main.x": P("tp")}), spmd.transform.Lower()])
    assert spmd.transform.sharded(passes(mod)).mod.script() == expected


def test_a_private_function_is_normalized_before_it_is_inlined():
    mod = module(argument)
    bb = relax.BlockBuilder()
    helper = bb.add_func(mod["main"].without_attr("global_symbol"), "helper")
    x = relax.Var("x", VECTOR)
    main = relax.Function([x], op.sin(relax.Call(helper, [op.cos(x)])), VECTOR).with_attr("global_symbol", "main")
    bb.add_func(main, "main")
    both = bb.get()
    assert_equivalent(both, 2, {"main.x": P("tp")})


def test_new_variables_have_names_of_their_own():
    function = normalized(module(taken_name))["main"]
    names = [b.var.name for block in function.body.blocks for b in block.bindings]
    assert len(set(names)) == len(names) == 3
    assert names[1] == "inner0"


def test_a_normal_module_is_given_back():
    assert normalized(Mlp) is Mlp
