"""Equal layers are proven once, and nothing wrong is hidden by that."""

from dataclasses import replace

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Sharding, ShardingError

pytestmark = pytest.mark.usefixtures("by_numbers")
LAYERS = 5


def layers(partial=False, kept=2, last="relu", swapped=False):
    """Two products and a sum a layer, on `kept` of 8 columns; with `partial` the carried value is summed at the end alone."""
    builder = relax.BlockBuilder()
    width = 8 // kept
    x = relax.Var("x", relax.TensorType((4, 8), "float32"))
    shapes = [(8, width), (width, 8)]
    weights = [[relax.Var(f"w{i}_{j}", relax.TensorType(s, "float32")) for j, s in enumerate(shapes)] for i in range(LAYERS)]
    with builder.function("main", [x, *(w for pair in weights for w in pair)], attrs={"num_input": 1}):
        h = x
        for i in range(LAYERS):
            first, second = weights[i if not swapped or i not in (3, 4) else 7 - i]
            a = builder.emit(relax.op.matmul(h, first), f"a{i}")
            b = builder.emit((relax.op.nn.gelu if i == LAYERS - 1 and last == "gelu" else relax.op.nn.relu)(a), f"b{i}")
            c = builder.emit(relax.op.matmul(b, second), f"c{i}")
            if kept > 1 and not (partial and i == 3):
                attrs = tvm.ir.make_node("ir.DictAttrs", axis="tp", kind="sum", value=f"c{i}", workers=kept)
                c = builder.emit(relax.Call(tvm.ir.Op.get("relax.spmd.all_reduce"), [c], attrs), f"s{i}")
            h = builder.emit(relax.op.add(h, c), f"h{i}")
        builder.emit_func_output(h)
    return builder.get()


PLACED = {f"main.w{i}_{j}": Sharding.parse(["[-, tp]", "[tp, -]"][j], [(8, 8), (8, 8)][j]) for i in range(LAYERS) for j in (0, 1)}


def test_equal_layers_are_proven_once():
    proof = spmd.verify(layers(kept=1), layers(), mesh=2, inputs=PLACED)
    assert proof
    assert proof.pieces == 2
    assert "by 2 different pieces" in str(proof)


@pytest.mark.parametrize("wrong", [{"partial": True}, {"last": "gelu"}, {"swapped": True}])
def test_a_layer_that_is_unlike_the_others_is_found(wrong):
    """A sum that one layer lacks, another function in the last one, weights of two layers that change places."""
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(layers(kept=1), layers(**wrong), mesh=2, inputs=PLACED)


def test_a_partial_value_between_layers_has_arbitrary_parts():
    """A part that is nothing would hide that what is no sum is taken of the parts."""

    @I.ir_module
    class Whole:
        @R.function
        def main(x: R.Tensor((4, 6), "float32")):
            y = R.nn.relu(x)
            return y

    @I.ir_module
    class Parts:
        @R.function
        def main(x: R.Tensor((4, 6), "float32")):
            a = R.nn.relu(x)
            y = R.spmd.all_reduce(a, axis="tp", kind="sum", workers=2, value="a")
            return y

    partial = replace(Sharding.replicated(2), partial=(("tp", "sum"),))
    with pytest.raises(ShardingError, match="numbers wrong"):
        spmd.verify(Whole, Parts, mesh=2, inputs={"main.x": partial})


def attention(heads, functions, exchanged=()):
    """Functions that put keys and values of so many heads into a cache; in those of `exchanged` two workers do each other's."""
    builder = relax.BlockBuilder()
    for name in functions:
        cache = relax.Var("cache", relax.AnyType())
        qkv = relax.Var("qkv", relax.TensorType((3, 3 * heads, 4), "float32"))
        with builder.function(name, [cache, qkv], attrs={"num_input": 2}):
            x = other(builder, qkv) if name in exchanged else qkv
            out = relax.TensorType((3, heads, 4), "float32")
            given = relax.Tuple([cache, relax.prim_value(0), relax.prim_value(0.5), x])
            o = builder.emit(relax.op.call_dps_packed("vm.builtin.attention_kv_cache_attention_with_fused_qkv", given, out))
            builder.emit_func_output(other(builder, o) if name in exchanged else o)
    return builder.get()


def other(builder, x):
    attrs = tvm.ir.make_node("ir.DictAttrs", axis="tp", pairs=[[0, 1], [1, 0]], value="x", workers=2)
    return builder.emit(relax.Call(tvm.ir.Op.get("relax.spmd.permute"), [x], attrs))


def test_heads_of_a_cache_are_those_of_other_functions():
    """Each of the two is right by itself, but what one puts into the cache of a worker is not what the other one looks for there."""
    names = ("prefill", "decode")
    placed = {
        "inputs": {f"{name}.qkv": Sharding.parse("[-, tp:2|2|2, -]", (3, 6, 4)) for name in names},
        "outputs": {name: Sharding.parse("[-, tp, -]", (3, 2, 4)) for name in names},
    }
    assert spmd.verify(attention(2, names), attention(1, names, names), mesh=2, **placed)
    with pytest.raises(ShardingError, match="head 0 is another one than elsewhere"):
        spmd.verify(attention(2, names), attention(1, names, ["decode"]), mesh=2, **placed)
