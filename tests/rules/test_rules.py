"""The rule of each operator, as an expression: one row a case, built from a tiny Relax function."""

import numpy as np
import pytest
import tvm
from tvm import relax, te

import spmd
from spmd import ShardingError
from spmd.program.build import build_graph
from spmd.rules import registry
from spmd.rules.expression import bind
from spmd.rules.families.not_user_ops import NOT_USER_OPS
from tests.models.group_quant import dequantize_kernel

op = relax.op
nn = relax.op.nn


def node_of(build, *shapes, dtype="float32"):
    """The only operator of the function ``build(*inputs)``; a shape may hold a str for a symbolic size, or end in a dtype."""
    sizes = {}

    def var(i, shape):
        kind = dtype
        if shape and shape[-1] in ("int32", "int64", "bool", "float16", "uint32"):
            *shape, kind = shape
        dims = [sizes.setdefault(s, tvm.tirx.Var(s, "int64")) if isinstance(s, str) else s for s in shape]
        return relax.Var("abcdef"[i], relax.TensorType(dims, kind))

    inputs = [var(i, shape) for i, shape in enumerate(shapes)]
    builder = relax.BlockBuilder()
    with builder.function("main", inputs):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(build(builder, *inputs)))
        builder.emit_func_output(out)
    return build_graph(builder.finalize()).functions["main"].nodes[-1]


def text_of(rule):
    """The rule with its factors renamed a, b, c in order of first use; whole ones in upper case, those with a form starred."""
    names = {}

    def factor(f):
        letter = names.setdefault(f, "abcdefghijkl"[len(names)])
        return letter.upper() if f in rule.whole else letter + "*" * (f in rule.forms)

    def piece(p):
        return "1" if not p else factor(p[0]) if len(p) == 1 else f"({' '.join(map(factor, p))})"

    def spec(dims):
        return " ".join(piece(d[0]) if len(d) == 1 else f"[{' '.join(map(piece, d))}]" for d in dims)

    ins = ", ".join(map(spec, rule.inputs))
    return f"{ins} -> {', '.join(map(spec, rule.outputs))}".strip()


# fmt: off
ROWS = {
    # matmul
    "matmul": (lambda _, a, b: op.matmul(a, b), [(4, 6), (6, 8)], "a b, b c -> a c"),
    "matmul batched": (lambda _, a, b: op.matmul(a, b), [(2, 3, 4, 6), (2, 3, 6, 8)], "a b c d, a b d e -> a b c e"),
    "matmul broadcast": (lambda _, a, b: op.matmul(a, b), [(2, 1, 4, 6), (3, 6, 8)], "a 1 b c, d c e -> a d b e"),
    "matmul by a vector": (lambda _, a, b: op.matmul(a, b), [(4, 6), (6,)], "a b, b -> a"),
    "matmul of a vector": (lambda _, a, b: op.matmul(a, b), [(6,), (6, 8)], "a, a b -> b"),
    "matmul of two vectors": (lambda _, a, b: op.matmul(a, b), [(6,), (6,)], "a, a ->"),
    "matmul of one row": (lambda _, a, b: op.matmul(a, b), [(1, 6), (6, 8)], "a b, b c -> a c"),
    # elementwise
    "relu": (lambda _, a: nn.relu(a), [(4, 6)], "a b -> a b"),
    "add": (lambda _, a, b: op.add(a, b), [(4, 6), (4, 6)], "a b, a b -> a b"),
    "add a bias": (lambda _, a, b: op.add(a, b), [(4, 6), (6,)], "a b, b -> a b"),
    "add both ways": (lambda _, a, b: op.add(a, b), [(4, 1), (1, 6)], "a 1, 1 b -> a b"),
    "add a constant": (lambda _, a: op.add(a, relax.const(1.0)), [(4, 6)], "a b,  -> a b"),
    "add symbolic sizes": (lambda _, a, b: op.add(a, b), [("n", 6), (6,)], "a b, b -> a b"),
    "where": (lambda _, c, a, b: op.where(c, a, b), [(4, 1, "bool"), (4, 6), (6,)], "a 1, a b, b -> a b"),
    "astype": (lambda _, a: op.astype(a, "float16"), [(4, 6)], "a b -> a b"),
    "clip": (lambda _, a: op.clip(a, 0, 1), [(4, 6)], "a b -> a b"),
    # reduce
    "sum": (lambda _, a: op.sum(a, axis=[1]), [(4, 6)], "a b -> a"),
    "sum of all": (lambda _, a: op.sum(a), [(4, 6)], "a b ->"),
    "sum kept": (lambda _, a: op.sum(a, axis=[-1], keepdims=True), [(4, 6)], "a b -> a 1"),
    "max": (lambda _, a: op.max(a, axis=[0]), [(4, 6)], "a* b -> b"),
    "mean": (lambda _, a: op.mean(a, axis=[1]), [(4, 6)], "a b* -> a"),
    "variance": (lambda _, a: op.variance(a, axis=[1]), [(4, 6)], "a b* -> a"),
    "mean of a symbolic size": (lambda _, a: op.mean(a, axis=[0, 1]), [("n", 6)], "A B ->"),
    # normalize
    "softmax": (lambda _, a: nn.softmax(a, axis=-1), [(4, 6)], "a b* -> a b*"),
    "softmax over rows": (lambda _, a: nn.softmax(a, axis=0), [(4, 6)], "a* b -> a* b"),
    "rms_norm": (lambda _, a, w: nn.rms_norm(a, w, axes=[-1]), [(2, 4, 6), (6,)], "a b c*, c* -> a b c*"),
    "layer_norm": (
        lambda _, a, w, b: nn.layer_norm(a, w, b, axes=[-2, -1]), [(2, 4, 6), (4, 6), (4, 6)], "a b* c*, b* c*, b* c* -> a b* c*",
    ),
    "group_norm": (
        lambda _, a, w, b: nn.group_norm(a, w, b, 2, 1, [2]), [(3, 8, 5), (8,), (8,)], "a (b c*) d*, (b c*), (b c*) -> a (b c*) d*"
    ),
    "batch_norm": (lambda _, a, *w: nn.batch_norm(a, *w, axis=1), [(4, 6)] + [(6,)] * 4, "a* b, b, b, b, b -> a* b, b, b"),
    # attention
    "attention": (
        lambda _, q, k, v: nn.attention(q, k, v), [(2, 5, 4, 8), (2, 7, 4, 8), (2, 7, 4, 6)], "a b c D, a e* c D, a e* c f -> a b c f"
    ),
    "attention of groups": (
        lambda _, q, k, v: nn.attention(q, k, v), [(2, 5, 4, 8), (2, 7, 2, 8), (2, 7, 2, 6)], "a b (c D) E, a F c E, a F c g -> a b (c D) g"
    ),
    "attention of what comes before": (
        lambda _, q, k, v: nn.attention(q, k, v, causal_mask="TopLeft"), [(2, 6, 4, 8)] * 3, "a b* c D, a e* c D, a e* c f -> a b* c f",
    ),
    "attention in a window": (
        lambda _, q, k, v: nn.attention(q, k, v, window_size=3), [(2, 6, 4, 8)] * 3, "a B c D, a E c D, a E c f -> a B c f",
    ),
    "attention_var_len": (
        lambda _, q, k, v, s, m: nn.attention_var_len(q, k, v, s, m, s, m), [(1, 7, 4, 8)] * 3 + [(3, "int32"), (1, "int32")],
        "A B c D, A E c D, A E c f, G, H, I, J -> A B c f"
    ),
    # linear
    "ewise_fma": (lambda _, a, b, c: op.ewise_fma(a, b, c), [(4, 6)] * 3, "a b, a b, a b -> a b"),
    "einsum": (lambda _, a, b: op.einsum((a, b), "ij,jk->ki"), [(4, 6), (6, 8)], "a b, b c -> c a"),
    "einsum of a diagonal": (lambda _, a: op.einsum((a,), "iik->ik"), [(4, 4, 6)], "A A b -> A b"),
    # manipulate
    "permute_dims": (lambda _, a: op.permute_dims(a, [0, 2, 1]), [(2, 4, 6)], "a b c -> a c b"),
    "permute_dims reversed": (lambda _, a: op.permute_dims(a), [(2, 4, 6)], "a b c -> c b a"),
    "reshape that splits": (lambda _, a: op.reshape(a, (5, 9, 64)), [(5, 576)], "a (b c) -> a b c"),
    "reshape that merges": (lambda _, a: op.reshape(a, (5, 576)), [(5, 9, 64)], "a b c -> a (b c)"),
    "reshape by a common factor": (lambda _, a: op.reshape(a, (2, 12)), [(6, 4)], "(a b) c -> a (b c)"),
    "reshape with nothing in common": (lambda _, a: op.reshape(a, (2, 3)), [(3, 2)], "A B -> C D"),
    "reshape symbolic": (lambda _, a: op.reshape(a, (1, a.ty.shape.values[0], 3, 4)), [("n", 12)], "a (b c) -> 1 a b c"),
    "expand_dims": (lambda _, a: op.expand_dims(a, 1), [(4, 6)], "a b -> a 1 b"),
    "squeeze": (lambda _, a: op.squeeze(a, [1]), [(4, 1, 6)], "a 1 b -> a b"),
    "flatten": (lambda _, a: op.flatten(a), [(4, 6)], "a b -> (a b)"),
    "split": (lambda _, a: op.split(a, 2, axis=-1), [(4, 6)], "a [b c] -> a b, a c"),
    "split unevenly": (lambda _, a: op.split(a, [2, 3], axis=0), [(6, 4)], "[a b c] d -> a d, b d, c d"),
    "concat": (lambda _, a, b: op.concat([a, b], axis=1), [(4, 2), (4, 6)], "a b, a c -> a [b c]"),
    "repeat": (lambda _, a: op.repeat(a, 3, axis=0), [(4, 6)], "a b -> (a C) b"),
    "repeat of all": (lambda _, a: op.repeat(a, 3), [(4, 6)], "a b -> (a b C)"),
    "broadcast_to": (lambda _, a: op.broadcast_to(a, (4, 6)), [(1, 6)], "1 a -> b a"),
    "triu": (lambda _, a: op.triu(a), [(2, 4, 6)], "a b* c* -> a b* c*"),
    # create
    "zeros": (lambda _: op.zeros((4, 6), "float32"), [], "-> a b"),
    "full": (lambda _: op.full((4, 6), relax.const(2.0)), [], "-> a b"),
    "zeros_like": (lambda _, a: op.zeros_like(a), [(4, 6)], "a b -> a b"),
    "full_like": (lambda _, a: op.full_like(a, relax.const(2.0)), [(4, 6)], "a b,  -> a b"),
    "arange": (lambda _: op.arange(5), [], "-> a*"),
    # indexing
    "take": (lambda _, a, i: op.take(a, i, axis=0), [(10, 8), (5, "int32")], "a* b, c -> c b"),
    "take columns": (lambda _, a, i: op.take(a, i, axis=1), [(4, 10, 8), (2, 5, "int32")], "a b* c, d e -> a d e c"),
    "take with NaN outside": (lambda _, a, i: op.take(a, i, axis=0, mode="nan"), [(10, 8), (5, "int32")], "a* b, c -> c b"),
    # kernels
    "call_te": (lambda bb, a, b: bb.call_te(te_product, a, b), [(4, 6), (6, 8)], "a b, b c -> a c"),
    "dequantize": (
        lambda bb, w, s: bb.call_te(lambda w, s: dequantize_kernel(w, s, 64, 128), w, s),
        [(64, 16, "uint32"), (64, 4, "float16")], "a (b C), a b -> a (b C D)",
    ),
    # nobody's
    "an operator without a rule": (lambda _, a: op.call_dps_packed("test.none", [a], out_ty=a.ty), [(4, 6)], "A B -> C D"),
}
# fmt: on


def te_product(a, b):
    k = te.reduce_axis((0, a.shape[1]), "k")
    return te.compute((a.shape[0], b.shape[1]), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k))


@pytest.mark.parametrize("name", ROWS)
def test_rule(name):
    build, shapes, expected = ROWS[name]
    node = node_of(build, *shapes)
    assert text_of(node.rule) == expected.strip()
    assert bool(node.no_rule) == (name == "an operator without a rule")


@pytest.mark.parametrize(
    ("name", "reduce", "zero", "linear"),
    [
        ("matmul", "sum", "any", ()),
        ("add", "sum", "all", ((0, 1),)),
        ("relu", "sum", "all", ()),
        ("astype", "sum", "all", ()),
        ("clip", "sum", "", ()),
        ("sum", "sum", "all", ((0,),)),
        ("max", None, "", ()),
        ("mean", None, "all", ((0,),)),
        ("variance", None, "", ()),
        ("softmax", "sum", "", ()),
        ("reshape that splits", "sum", "all", ((0,),)),
        ("split", "sum", "all", ((0,),)),
        ("concat", "sum", "all", ((0, 1),)),
        ("zeros", "sum", "all", ()),
        ("full", "sum", "", ()),
        ("call_te", "sum", "all", ()),
    ],
)
def test_what_is_known_of_partial_sums_and_of_zeros(name, reduce, zero, linear):
    build, shapes, _ = ROWS[name]
    rule = node_of(build, *shapes).rule
    assert (rule.reduce, rule.zero, rule.linear) == (reduce, zero, linear)


def test_products_are_linear_where_the_other_factor_is_known_to_be_finite():
    """Of parts that are zero, infinity would make NaN; integers have none."""
    assert node_of(lambda _, a, b: op.multiply(a, b), (4,), (4,)).rule.linear == ()
    assert node_of(lambda _, a, b: op.multiply(a, b), (4, "int32"), (4, "int32")).rule.linear == ((0,), (1,))
    assert node_of(lambda _, a, b: op.matmul(a, b), (4, 4), (4, 4)).rule.linear == ()
    assert node_of(lambda _, a, b: op.divide(a, b), (4,), (4,)).rule.linear == ()
    ones = np.ones((4, 4), "float32")
    assert node_of(lambda _, a: op.matmul(a, relax.const(ones)), (4, 4)).rule.linear == ((0,),)
    assert node_of(lambda _, a: op.matmul(relax.const(ones), a), (4, 4)).rule.linear == ((1,),)
    assert node_of(lambda _, a: op.matmul(a, relax.const(-ones)), (4, 4)).rule.linear == ()


@pytest.mark.parametrize(
    ("number", "product", "quotient"),
    [(0.5, True, True), (0.0, True, False), (-1.0, False, False), (-0.0, False, False), (np.inf, False, False), (np.nan, False, False)],
)
def test_a_constant_factor_is_looked_at(number, product, quotient):
    """A negative one turns the sign of parts that are zero."""
    constant = relax.const(np.array(number, "float32"))
    assert node_of(lambda _, a: op.multiply(a, constant), (4,)).rule.linear == (((0,),) if product else ())
    assert node_of(lambda _, a: op.divide(a, constant), (4,)).rule.linear == (((0,),) if quotient else ())


def test_differences_are_linear_for_integers():
    """Of floats, what is taken away from parts that are nothing turns the sign of a zero."""
    assert node_of(lambda _, a, b: op.divide(a, b), (4, "int32"), (4, "int32")).rule.linear == ()
    assert node_of(lambda _, a, b: op.subtract(a, b), (4,), (4,)).rule.linear == ()
    assert node_of(lambda _, a, b: op.subtract(a, b), (4, "int32"), (4, "int32")).rule.linear == ((0, 1),)
    assert node_of(lambda _, a: op.negative(a), (4, "int32")).rule.linear == ((0,),)
    assert node_of(lambda _, a, b: op.maximum(a, b), (4,), (4,)).rule.linear == ()


def test_a_table_is_looked_up():
    rule = node_of(ROWS["take columns"][0], *ROWS["take columns"][1]).rule
    (form,) = rule.forms.values()
    assert (form.name, form.partial, form.ordered, rule.sparse) == ("lookup", "sum", True, (0,))


def test_local_sizes_go_into_shape_arguments_and_attributes():
    assert node_of(*ROWS["reshape that splits"][:1], (5, 576)).rule.shape_args == {1: 0}
    assert node_of(ROWS["broadcast_to"][0], (1, 6)).rule.shape_args == {1: 0}
    rule = node_of(ROWS["split unevenly"][0], (6, 4)).rule
    names = [spec[0][0][0] for spec in rule.outputs]
    attrs = rule.local_attrs(lambda f: {names[0]: 1, names[1]: 2, names[2]: 3}.get(f, 4))
    assert [int(e) for e in attrs["indices_or_sections"]] == [1, 3]


def test_a_reshape_splits_only_where_both_shapes_can():
    rule = node_of(ROWS["reshape by a common factor"][0], (6, 4)).rule
    assert rule.sizes == dict(zip(rule.sizes, (2, 3, 4), strict=True))
    nothing = node_of(ROWS["reshape with nothing in common"][0], (3, 2)).rule
    assert nothing.whole == set(nothing.factors)


@pytest.fixture
def rules():
    """The table of rules, put back after the test."""
    before = dict(registry._RULES)
    yield registry._RULES
    registry._RULES.clear()
    registry._RULES.update(before)


def test_a_rule_of_ones_own(rules):
    spmd.rule("relax.sort", expression="a b -> a b")
    node = node_of(lambda _, a: op.sort(a, axis=0), (4, 6))
    assert text_of(node.rule) == "a b -> a b" and not node.no_rule

    @spmd.rule("relax.sort")
    def sort(call):
        axis = int(call.attrs.axis) % len(call.inputs[0])
        return call.bind("a b -> a b", whole="ab"[axis])

    assert text_of(node_of(lambda _, a: op.sort(a, axis=0), (4, 6)).rule) == "A b -> A b"
    assert text_of(node_of(lambda _, a: op.sort(a, axis=-1), (4, 6)).rule) == "a B -> a B"

    spmd.rule("relax.sort")(lambda _: None)
    assert node_of(lambda _, a: op.sort(a, axis=0), (4, 6)).no_rule == "relax.sort has no rule"


def test_a_rule_names_an_operator():
    with pytest.raises(ShardingError, match=r"it names no operator\. Write @spmd\.rule\('relax\.my_op'\)"):
        spmd.rule()


def test_a_rule_that_does_not_fit_its_call_says_so(rules):
    spmd.rule("relax.sort", expression="a -> a")
    with pytest.raises(ShardingError, match=r"rule 'a -> a': a tensor of 2 dimensions stands where the rule has 1"):
        node_of(lambda _, a: op.sort(a, axis=0), (4, 6))


def test_packed_functions_have_rules_by_their_name(rules):
    spmd.rule("test.rowwise", expression="a b -> a b")

    def call(_, a):
        return op.call_dps_packed("test.rowwise", [a], out_ty=relax.TensorType((4, 6), "float32"))

    node = node_of(call, (4, 6))
    assert node.op == "test.rowwise" and text_of(node.rule) == "a b -> a b"


def test_kernels_without_a_rule_say_why():
    def gather(bb, a, i):
        return bb.call_te(lambda a, i: te.compute((5,), lambda j: a[i[j]]), a, i)

    node = node_of(gather, (10,), (5, "int32"))
    assert text_of(node.rule) == "A, b* -> b*", "the table is whole, places go together, and none is read in padding"

    def packed(_, a):
        return op.call_dps_packed("test.unknown", [a], out_ty=relax.TensorType((4, 6), "float32"))

    assert node_of(packed, (4, 6)).no_rule == "test.unknown has no rule"


def test_the_cache_is_sharded_by_heads():
    """8 query and 4 KV heads: ``[(h r) h h]`` with r = 2."""
    rule = bind("h, t [(h r) h h] d -> t (h r) d", [(4,), (7, 16, 8)], [(7, 8, 8)], {"h": 4, "r": 2})
    x = relax.Var("qkv", relax.TensorType((7, 16, 8), "float32"))
    cache = relax.Var("cache", relax.AnyType())
    builder = relax.BlockBuilder()
    with builder.function("main", [x, cache]):
        with builder.dataflow():
            call = op.call_dps_packed(
                "vm.builtin.attention_kv_cache_attention_with_fused_qkv",
                [cache, relax.prim_value(0), relax.prim_value(1.0), x],
                out_ty=relax.TensorType((7, 8, 8), "float32"),
            )
            out = builder.emit_output(builder.emit(call))
        builder.emit_func_output(out)
    (node,) = build_graph(builder.finalize()).functions["main"].nodes
    assert node.op == "vm.builtin.attention_kv_cache_attention_with_fused_qkv"
    assert (node.rule.inputs, node.rule.outputs) == (rule.inputs, rule.outputs)
    assert {k: node.rule.sizes[k] for k in "hr"} == {"h": 4, "r": 2}
    assert node.rule.whole >= {"t", "r", "d"} and node.rule.reduce is None


def test_every_registered_name_is_an_operator_of_tvm_or_a_packed_function():
    known = set(tvm.ir.Op.list_op_names())
    unknown = [n for n in registry._RULES if n.startswith("relax.") and n != "relax.spmd.hint" and n not in known]
    assert unknown == []


def test_operators_that_no_module_holds_have_no_rule():
    known = set(tvm.ir.Op.list_op_names())
    assert NOT_USER_OPS.keys() <= known
    assert not NOT_USER_OPS.keys() & registry._RULES.keys()
