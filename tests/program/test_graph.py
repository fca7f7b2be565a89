"""From Relax to values and operators."""

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import P, ShardingError
from spmd.ir.inline import inlined
from spmd.ir.trees import leaves
from spmd.program.build import build_graph
from spmd.testing import assert_equivalent
from tests.models.mlc_llama import TINY, mlc_llama
from tests.programs import Mlp, Two


def rules(function):
    """``{node name: (op, names of inputs, names of outputs)}``."""
    return {n.name: (n.op, [v.name for v in n.inputs], [v.name for v in n.outputs]) for n in function.nodes}


def test_values_and_operators_of_a_function():
    graph = build_graph(Mlp)
    (main,) = graph.functions.values()
    assert rules(main) == {
        "up": ("relax.matmul", ["x", "w1"], ["up"]),
        "active": ("relax.nn.relu", ["up"], ["active"]),
        "down": ("relax.matmul", ["active", "w2"], ["down"]),
    }
    assert [(v.name, v.role, v.shape, v.dtype) for v in graph.values] == [
        ("x", "input", (4, 16), "float32"),
        ("w1", "weight", (16, 32), "float32"),
        ("w2", "weight", (32, 16), "float32"),
        ("up", "temporary", (4, 32), "float32"),
        ("active", "temporary", (4, 32), "float32"),
        ("down", "temporary", (4, 16), "float32"),
    ]
    assert main.num_input == 1 and main.result.name == "down"


def test_a_weight_of_two_functions_is_one_value():
    graph = build_graph(Two)
    first, second = graph.functions["first"], graph.functions["second"]
    assert first.params[1] is second.params[1]
    assert first.params[0] is not second.params[0], "inputs of the same name are not"
    assert [v.name for v in graph.values].count("w") == 1
    assert [v.name for v in second.result] == ["z", "s"]


def test_symbolic_sizes_are_none_and_keep_their_expression():
    x = next(v for v in build_graph(Two).values if (v.function, v.name) == ("second", "x"))
    assert x.shape == (None, 16) and x.dims[0].name == "n"


@I.ir_module
class Tuples:
    @R.function
    def main(x: R.Tensor((4, 6), "float32"), pair: R.Tuple(R.Tensor((6,), "float32"), R.Tuple(R.Tensor((6,), "float32")))):
        with R.dataflow():
            parts = R.split(x, 2, axis=1)
            low = parts[0]
            both = (low, parts[1])
            back = R.concat(both, axis=1)
            inner = pair[1]
            y = R.add(back, inner[0])
            z = R.multiply(y, pair[0])
            out = (z, (y, x))
            R.output(out)
        return out


def test_tuples_are_trees_of_values():
    main = build_graph(Tuples).functions["main"]
    assert rules(main) == {
        "parts": ("relax.split", ["x"], ["parts[0]", "parts[1]"]),
        "back": ("relax.concat", ["parts[0]", "parts[1]"], ["back"]),
        "y": ("relax.add", ["back", "pair[1][0]"], ["y"]),
        "z": ("relax.multiply", ["y", "pair[0]"], ["z"]),
    }
    assert [v.name for v in leaves(main.result)] == ["z", "y", "x"]
    assert isinstance(main.result[1], tuple)


@pytest.mark.parametrize("specs", [None, {"main.x": P(None, "tp")}, {"main.x": P("tp", None), "main.return[[]1][[]0]": P("tp", None)}])
def test_tuples_come_out_as_they_went_in(specs):
    assert_equivalent(Tuples, 2, specs)


@I.ir_module
class Packed:
    """The fields of the packed weights are called differently by the two functions."""

    @R.function
    def long(x: R.Tensor((4, 6), "float32"), packed: R.Tuple(R.Tensor((6, 8), "float32"), R.Tensor((8,), "float32"))):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            lv_weight = packed[0]
            bias = packed[1]
            y = R.add(R.matmul(x, lv_weight), bias)
            R.output(y)
        return y

    @R.function
    def short(x: R.Tensor((4, 6), "float32"), packed: R.Tuple(R.Tensor((6, 8), "float32"), R.Tensor((8,), "float32"))):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            weight = packed[0]
            y = R.matmul(x, weight)
            R.output(y)
        return y


def test_packed_weights_are_shared_and_have_the_shortest_name_of_a_binding():
    graph = build_graph(Packed)
    assert [v.name for v in graph.values if v.role == "weight"] == ["weight", "bias"]
    assert graph.functions["long"].params[1][0] is graph.functions["short"].params[1][0]
    assert_equivalent(Packed, 2, {"weight": P(None, "tp")})


def test_packed_weights_of_a_model_have_the_names_of_its_parameters():
    mod, named = mlc_llama(TINY, layers=1)
    weights = [v.name for v in build_graph(mod).values if v.role == "weight"]
    assert sorted(weights) == sorted(name.replace(".", "_") for name, _ in named) or sorted(weights) == sorted(name for name, _ in named)


def test_two_weights_of_one_name_stay_two():
    """Relax tells variables apart by identity, and so does the graph."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 8), "float32"))
    a, b = (relax.Var("w", relax.TensorType((8, 8), "float32")) for _ in range(2))
    with builder.function("main", [x, a, b], {"num_input": 1}):
        with builder.dataflow():
            y = builder.emit(relax.op.matmul(x, a))
            out = builder.emit_output(relax.op.subtract(y, relax.op.matmul(x, b)))
        builder.emit_func_output(out)
    mod = builder.finalize()
    first, second = build_graph(mod).functions["main"].params[1:]
    assert first is not second
    assert list(assert_equivalent(mod, 2).plan.params) == ["w", "w#2"]


def test_weights_of_one_name_and_several_shapes_stay_apart():
    @I.ir_module
    class Shapes:
        @R.function
        def first(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 32), "float32")):
            R.func_attr({"num_input": 1})
            y = R.matmul(x, w)
            return y

        @R.function
        def second(x: R.Tensor((4, 16), "float32"), w: R.Tensor((16, 8), "float32")):
            R.func_attr({"num_input": 1})
            y = R.matmul(x, w)
            return y

    sharded = assert_equivalent(Shapes, 2, {"w": P(None, "tp")})
    assert list(sharded.plan.params) == ["w", "w#2"]


@I.ir_module
class Casts:
    @R.function
    def main(x: R.Tensor(("n", "m"), "float32"), w: R.Tensor((16, 8), "float32")):
        R.func_attr({"num_input": 1})
        k = T.int64()
        with R.dataflow():
            y = R.match_cast(x, R.Tensor((k, 16), "float32"))
            z = R.matmul(y, w)
            R.output(z)
        return z


def test_match_cast_is_an_operator():
    main = build_graph(Casts).functions["main"]
    assert rules(main)["y"] == ("match_cast", ["x"], ["y"])
    assert main.nodes[0].outputs[0].shape == (None, 16)
    assert_equivalent(Casts, 2, {"w": P("tp", None)}, sizes={"n": 3, "m": 16, "k": 3})


@I.ir_module
class Constants:
    @R.function
    def main(x: R.Tensor((4, 2), "float32")):
        with R.dataflow():
            y = R.add(x, R.const([1.0, 2.0], "float32"))
            z = R.multiply(y, R.const(3.0, "float32"))
            R.output(z)
        return z


def test_constants_are_values_that_stay_whole():
    graph = build_graph(Constants)
    constants = [v for v in graph.values if v.role == "constant"]
    assert [(v.shape, str(v.wanted), v.reason) for v in constants] == [
        ((2,), "[-]", "constants of less than `lift` bytes stay in the program, and are whole"),
        ((), "[]", "constants of less than `lift` bytes stay in the program, and are whole"),
    ]
    assert len({v.name for v in constants}) == 2
    for specs in ({"main.x": P("tp", None)}, {"main.x": P(None, "tp"), "main.y": P(None, "tp")}):
        assert_equivalent(Constants, 2, specs)


@I.ir_module
class Branches:
    @R.function(private=True)
    def twice(x: R.Tensor((4, 6), "float32")) -> R.Tensor((4, 6), "float32"):
        with R.dataflow():
            y = R.add(x, x)
            R.output(y)
        return y

    @R.function(private=True)
    def four_times(x: R.Tensor((4, 6), "float32")) -> R.Tensor((4, 6), "float32"):
        cls = Branches
        y: R.Tensor((4, 6), "float32") = cls.twice(x)
        z: R.Tensor((4, 6), "float32") = cls.twice(y)
        return z

    @R.function
    def main(x: R.Tensor((4, 6), "float32"), positive: R.Tensor((), "bool")) -> R.Tensor((4, 6), "float32"):
        cls = Branches
        a = R.add(x, R.const(1.0, "float32"))
        if positive:
            b: R.Tensor((4, 6), "float32") = cls.four_times(a)
            c = b
        else:
            d = R.negative(a)
            c = d
        e: R.Tensor((4, 6), "float32") = cls.twice(c)
        return e


def test_an_if_is_a_node_for_its_condition_and_one_for_what_each_branch_gives():
    nodes = build_graph(inlined(Branches)).functions["main"].nodes
    assert [(n.op, [v.name for v in n.outputs], n.branch) for n in nodes] == [
        ("relax.add", ["a"], ()),
        ("If", [], ()),
        ("relax.add", ["y"], (("c", True),)),
        ("relax.add", ["y#2"], (("c", True),)),
        ("join", ["c"], (("c", True),)),
        ("relax.negative", ["d"], (("c", False),)),
        ("join", ["c"], (("c", False),)),
        ("relax.add", ["y#3"], ()),
    ]
    condition, first, second = (n for n in nodes if n.op in ("If", "join"))
    assert [v.name for v in condition.inputs] == ["positive"] and (condition.name, condition.joined.name) == ("c", "c")
    assert first.outputs == second.outputs and [v.name for v in (*first.inputs, *second.inputs)] == ["y#2", "d"]


def test_branches_are_split_and_private_functions_are_inlined():
    sharded = assert_equivalent(Branches, 2, {"main.x": P("tp", None)})
    assert not sharded.plan.notes
    assert [c.op for c in sharded.plan.choices["main"] if not c.splits] == ["If"]
    assert "twice" not in sharded.mod.script()


@I.ir_module
class Public:
    @R.function
    def callee(x: R.Tensor((4, 6), "float32")) -> R.Tensor((4, 6), "float32"):
        return x

    @R.function
    def main(x: R.Tensor((4, 6), "float32")) -> R.Tensor((4, 6), "float32"):
        cls = Public
        y: R.Tensor((4, 6), "float32") = cls.callee(x)
        return y


def test_a_public_callee_is_an_error():
    with pytest.raises(ShardingError, match=r"main: 'y': it calls the public function 'callee'\. Make the callee private, or inline it"):
        build_graph(Public)


def test_a_module_with_nothing_public_is_an_error():
    private = tvm.IRModule({gv: f for gv, f in Branches.functions.items() if gv.name_hint != "main"})
    with pytest.raises(ShardingError, match=r"module: it has no public Relax function\. Give a function a global_symbol"):
        build_graph(private)


def test_an_unknown_shape_is_an_error():
    x = relax.Var("x", relax.TensorType(dtype="float32", ndim=2))
    func = relax.Function([x], relax.SeqExpr([], x), relax.TensorType(dtype="float32", ndim=2)).with_attr("global_symbol", "main")
    with pytest.raises(ShardingError, match=r"main: value 'x': its shape is not known .* Give it a shape with R\.match_cast"):
        build_graph(tvm.IRModule({"main": func}))


def test_a_body_that_is_not_normalized_is_planned_as_if_it_were():
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    nested = relax.op.add(relax.op.add(x, x), x)
    func = relax.Function([x], relax.SeqExpr([], nested), relax.TensorType((4,), "float32")).with_attr("global_symbol", "main")
    plan = spmd.plan(tvm.IRModule({"main": func}), 2)
    assert [choice.op for choice in plan.choices["main"]] == ["relax.add", "relax.add"]


def test_an_operator_without_a_rule_is_replicated_and_noted():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 6), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.call_dps_packed("test.none", [x], out_ty=x.ty))
        builder.emit_func_output(out)
    plan = spmd.plan(builder.finalize(), 2)
    assert any("test.none has no rule" in note for note in plan.notes)


def test_caches_of_equal_heads_are_placed_alike():
    mod, _ = mlc_llama(TINY, layers=1, functions=["prefill", "decode", "create_paged_kv_cache"])
    states = [v for v in build_graph(mod).values if v.kind == "object"]
    assert len(states) == 1, "the cache that one function makes is the one that the others take"


def test_calls_that_differ_in_arguments_or_dtype_alone_have_rules_of_their_own():
    @I.ir_module
    class Alike:
        @R.function
        def main(x: R.Tensor((4, 9), "float32"), y: R.Tensor((4, 9), "int32")):
            with R.dataflow():
                plain = R.strided_slice(x, axes=[1], begin=[5], end=[7], strides=[1])
                strided = R.strided_slice(x, axes=[1], begin=[5], end=[9], strides=[2])
                floats = R.multiply(x, x)
                integers = R.multiply(y, y)
                out = (plain, strided, floats, integers)
                R.output(out)
            return out

    plain, strided, floats, integers = build_graph(Alike).functions["main"].nodes
    assert plain.rule.inputs != strided.rule.inputs
    assert integers.rule.linear and not floats.rule.linear


@I.ir_module
class Dead:
    @R.function
    def main(x: R.Tensor((4, 6), "float64")):
        with R.dataflow():
            flat = R.flatten(x)
            square = R.outer(flat, flat)  # noqa: F841
            y = R.reshape(x, R.shape([4, 3, 2]))
            R.output(y)
        return y


def test_operators_that_nothing_uses_are_not_planned():
    assert [n.op for n in build_graph(Dead).functions["main"].nodes] == ["relax.reshape"]
    assert_equivalent(Dead, 2, {"main.x": P("tp", None)})
