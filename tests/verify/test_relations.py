"""Programs are proven by relations of their values, at their own sizes, and no wrong one is: the first value without one is named."""

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, Sharding, ShardingError
from spmd.testing.equivalence import FREE_LINKS
from spmd.verify import signature
from spmd.verify.relational import Relational
from tests.models.llama_block import with_gradients
from tests.models.mlc_llama import TINY, mlc_llama

INPUTS = {"w1": ("[-, tp]", (4096, 16384)), "w2": ("[tp, -]", (16384, 4096))}


def placed(shapes):
    return {f"main.{name}": Sharding.parse(text, shape) for name, (text, shape) in shapes.items()}


def mlp(workers=1, reduced="sum", twice=False, bias="after", begin=None):
    """Two products and a bias, far too large to be evaluated: `workers` hold a part of the weights."""
    builder, hidden = relax.BlockBuilder(), 16384 // workers
    x, w1, w2, b = (
        relax.Var(name, relax.TensorType(shape, "float16"))
        for name, shape in (("x", (8192, 4096)), ("w1", (4096, hidden)), ("w2", (hidden, 4096)), ("b", (4096,)))
    )
    with builder.function("main", [x, w1, w2, b]):
        h = builder.emit(relax.op.nn.silu(relax.op.matmul(x, w1)), "h")
        y = builder.emit(relax.op.matmul(h, w2), "y")
        if workers > 1:
            y = builder.emit(relax.op.add(y, b), "early") if bias == "before" else y
            for _ in range(1 + twice):
                y = builder.emit(spmd_call("all_reduce", y, kind=reduced, workers=workers), "whole") if reduced else y
        y = builder.emit(relax.op.add(y, b), "z") if bias == "after" or workers == 1 else y
        builder.emit_func_output(y)
    return builder.get()


def spmd_index(axis, workers):
    return relax.Call(tvm.ir.Op.get("relax.spmd.axis_index"), [], tvm.ir.make_node("ir.DictAttrs", axis=axis, workers=workers))


def spmd_call(name, x, workers, axis="tp", **attrs):
    return relax.Call(
        tvm.ir.Op.get(f"relax.spmd.{name}"), [x], tvm.ir.make_node("ir.DictAttrs", axis=axis, workers=workers, value="", **attrs)
    )


def test_what_is_too_large_to_be_evaluated_is_proven():
    proof = spmd.verify(mlp(), mlp(8), mesh=8, inputs=placed(INPUTS))
    assert proof and proof.relational == ("main",) and not proof.runs and not proof.smaller
    assert str(proof) == "proven: 1 functions, 1 by relations of their values"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"reduced": None}, "'z', add: a part of it is still to be reduced over tp, and another one is not"),
        ({"reduced": "max"}, "'whole', spmd.all_reduce: a max over tp of what is to be reduced (sum over tp)"),
        ({"twice": True}, "the result is another value"),
        ({"bias": "before"}, "'early', add: a part of it is still to be reduced over tp, and another one is not"),
    ],
)
def test_the_first_value_without_a_relation_is_named(wrong, text):
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(mlp(), mlp(8, **wrong), mesh=8, inputs=placed(INPUTS))
    assert unrelated(mlp(), mlp(8, **wrong), 8, placed(INPUTS)) == {"main": text}


def unrelated(mod, local, mesh, inputs, outputs=None):
    return Relational(mod, local, Mesh.of(mesh), {}).unrelated(signature.of_user(mod, local, inputs, outputs or {}))


def test_another_cut_of_a_weight_is_no_relation():
    other = placed({**INPUTS, "w1": ("[-, tp:8192|8192]", (4096, 16384))})
    assert "'y', matmul: a sum that is none of the module's" in unrelated(mlp(), mlp(8), 8, other)["main"]


@I.ir_module
class Rows:
    @R.function
    def main(x: R.Tensor((64, 32), "float32"), w: R.Tensor((32, 16), "float32")):
        y = R.matmul(x, w)
        z = R.nn.softmax(y)
        return z


def taken(first, order, gathered):
    """Each of 2 x 4 workers takes its own rows, by an order of the axes, and gathers them by another."""
    builder = relax.BlockBuilder()
    x, w = relax.Var("x", relax.TensorType((64, 32), "float32")), relax.Var("w", relax.TensorType((32, 16), "float32"))
    with builder.function("main", [x, w]):
        parts = builder.emit(relax.op.reshape(x, (8, 8, 32)))
        worker = builder.emit(spmd_index(order, 8))
        worker = builder.emit(relax.op.add(worker, relax.const(first, "int64"))) if first else worker
        own = builder.emit(relax.op.take(parts, worker, axis=0, mode="fast"))
        y = builder.emit(relax.op.nn.softmax(relax.op.matmul(own, w)))
        builder.emit_func_output(builder.emit(spmd_call("all_gather", y, dim=0, workers=8, axis=gathered)))
    return builder.get()


def test_slices_by_the_worker_and_the_order_of_axes():
    mesh = Mesh(dp=2, tp=4)
    assert unrelated(Rows, taken(0, "dp+tp", "dp+tp"), mesh, {}) == {}
    assert unrelated(Rows, taken(0, "tp+dp", "tp+dp"), mesh, {}) == {}
    assert unrelated(Rows, taken(0, "dp+tp", "tp+dp"), mesh, {}) == {"main": "the result is another value"}
    assert "it may read at" in unrelated(Rows, taken(1, "dp+tp", "dp+tp"), mesh, {})["main"]


@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_a_model_with_a_cache(quantization):
    """All but the creation of the cache, which is no computation."""
    mod, _ = mlc_llama(TINY, quantization, symbolic_vocab=False)
    proof = spmd.verify(mod, spmd.shard(mod, 2, spmd.presets.megatron(mod, "tp"), profile=FREE_LINKS))
    assert proof
    assert set(proof.functions) - set(proof.relational) == {"create_paged_kv_cache"}


@I.ir_module
class Tokens:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), w: R.Tensor((8, 6), "float32")):
        y = R.nn.relu(R.matmul(x, w))
        return y


def test_a_size_that_is_not_known_is_split_where_workers_divide_it():
    rows = {"main.x": Sharding.parse("[tp:2*, -]", (-1, 8))}, {"main": Sharding.parse("[tp:2*, -]", (-1, 6))}
    signatures = signature.of_user(Tokens, Tokens, *rows)
    assert Relational(Tokens, Tokens, Mesh.of(2), {"n": 2}).unrelated(signatures) == {}
    said = Relational(Tokens, Tokens, Mesh.of(2), {}).unrelated(signatures)
    assert said == {"main": "2 workers do not divide n, or nobody says so"}


def test_a_step_of_training():
    mod = with_gradients(2)
    proof = spmd.verify(mod, spmd.shard(mod, Mesh(dp=2, tp=2), {"main_adjoint.x": P("dp", None, None)}, profile=FREE_LINKS))
    assert proof and proof.relational == proof.functions


def attention(heads, local, begin=(0, 0, 0)):
    """Attention on a cache: a worker takes its own heads of queries, keys and values, each from `begin` on, in a slice by its place."""
    builder, names = relax.BlockBuilder(), ("q", "k", "v")
    cache, *given = relax.Var("cache", relax.AnyType()), *(relax.Var(n, relax.TensorType((3, 4, 8), "float32")) for n in names)
    with builder.function("main", [cache, *given], attrs={"num_input": 4}):
        if local:
            worker = builder.emit(spmd_index("tp", 2))
            parts = [builder.emit(relax.op.reshape(x, (3, 2, 2, 8))) for x in given]
            given = [builder.emit(relax.op.take(x, worker, axis=1, mode="fast")) for x in parts]
            given = [builder.emit(relax.op.concat([x, x], 1)) if first else x for x, first in zip(given, begin, strict=True)]
            cuts = [relax.op.strided_slice(x, [1], [first], [first + 2]) if first else x for x, first in zip(given, begin, strict=True)]
            given = [builder.emit(x) for x in cuts]
        qkv = builder.emit(relax.op.concat(given, 1))
        told = relax.Tuple([cache, relax.prim_value(0), relax.prim_value(0.5), qkv])
        name = "vm.builtin.attention_kv_cache_attention_with_fused_qkv"
        y = builder.emit(relax.op.call_dps_packed(name, told, relax.TensorType((3, heads, 8), "float32")))
        builder.emit_func_output(y)
    return builder.get()


def test_heads_that_are_permuted_are_no_relation():
    outputs = {"main": Sharding.parse("[-, tp, -]", (3, 4, 8))}
    assert unrelated(attention(4, False), attention(2, True), 2, {}, outputs) == {}
    for begin in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)):
        found = unrelated(attention(4, False), attention(2, True, begin), 2, {}, outputs)
        assert "attention of heads that are no part of the module's" in found["main"]
