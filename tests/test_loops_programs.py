"""Loops, which are private functions that call themselves: planned with their body once, and equal to the unsharded module."""

import re

import pytest
import tvm_ffi
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import Mesh, P
from spmd.testing import FREE_LINKS, assert_equivalent


@I.ir_module
class Stack:
    """Two products a layer, over weights stacked by layer."""

    @R.function(private=True)
    def layer(
        i: R.Tensor((), "int64"), h: R.Tensor((3, 8), "float32"), up: R.Tensor((3, 8, 12), "float32"), down: R.Tensor((3, 12, 8), "float32")
    ) -> R.Tensor((3, 8), "float32"):
        cls = Stack
        end: R.Tensor((), "bool") = R.greater_equal(i, R.const(3, "int64"))
        if end:
            out: R.Tensor((3, 8), "float32") = h
        else:
            w: R.Tensor((8, 12), "float32") = R.take(up, i, axis=0)
            v: R.Tensor((12, 8), "float32") = R.take(down, i, axis=0)
            a: R.Tensor((3, 12), "float32") = R.nn.relu(R.matmul(h, w))
            c: R.Tensor((3, 8), "float32") = R.matmul(a, v)
            j: R.Tensor((), "int64") = R.add(i, R.const(1, "int64"))
            out: R.Tensor((3, 8), "float32") = cls.layer(j, c, up, down)
        return out

    @R.function
    def main(x: R.Tensor((3, 8), "float32"), up: R.Tensor((3, 8, 12), "float32"), down: R.Tensor((3, 12, 8), "float32")) -> R.Tensor(
        (3, 8), "float32"
    ):
        R.func_attr({"num_input": 1})
        cls = Stack
        y: R.Tensor((3, 8), "float32") = cls.layer(R.const(0, "int64"), x, up, down)
        return y


@I.ir_module
class Pairs:
    """It counts down, carries a pair of symbolic length, cuts its weights out by a slice, and works on what the inner call gives."""

    @R.function(private=True)
    def layer(
        i: R.Tensor((1,), "int64"),
        state: R.Tuple(R.Tensor(("n", 6), "float32"), R.Tensor(("n",), "float32")),
        w: R.Tensor((3, 6, 6), "float32"),
    ) -> R.Tuple(R.Tensor(("n", 6), "float32"), R.Tensor(("n",), "float32")):
        n = T.int64()
        cls = Pairs
        h: R.Tensor((n, 6), "float32") = state[0]
        total: R.Tensor((n,), "float32") = state[1]
        left: R.Tensor((), "bool") = R.max(R.greater(i, R.const([0], "int64")).astype("int32")).astype("bool")
        if left:
            j: R.Tensor((1,), "int64") = R.subtract(i, R.const([1], "int64"))
            one: R.Tensor((1, 6, 6), "float32") = R.take(w, j, axis=0)
            a: R.Tensor((n, 6), "float32") = R.tanh(R.matmul(h, R.squeeze(one, axis=[0])))
            s: R.Tensor((n,), "float32") = R.add(total, R.sum(a, axis=[1]))
            inner: R.Tuple(R.Tensor((n, 6), "float32"), R.Tensor((n,), "float32")) = cls.layer(j, (a, s), w)
            b: R.Tensor((n, 6), "float32") = R.add(inner[0], h)
            out: R.Tuple(R.Tensor((n, 6), "float32"), R.Tensor((n,), "float32")) = (b, inner[1])
        else:
            out: R.Tuple(R.Tensor((n, 6), "float32"), R.Tensor((n,), "float32")) = (h, total)
        return out

    @R.function
    def main(x: R.Tensor(("n", 6), "float32"), w: R.Tensor((3, 6, 6), "float32")):
        R.func_attr({"num_input": 1})
        n = T.int64()
        cls = Pairs
        y: R.Tuple(R.Tensor((n, 6), "float32"), R.Tensor((n,), "float32")) = cls.layer(R.const([3], "int64"), (x, R.sum(x, axis=[1])), w)
        z: R.Tuple(R.Tensor((n, 6), "float32"), R.Tensor((n,), "float32")) = cls.layer(R.const([2], "int64"), y, w)
        return (z, y[0])


@I.ir_module
class Mutual:
    """Two functions that call each other, of a size that 2 does not divide."""

    @R.function(private=True)
    def even(i: R.Tensor((), "int32"), x: R.Tensor((5, 7), "float32"), w: R.Tensor((7, 7), "float32")) -> R.Tensor((5, 7), "float32"):
        cls = Mutual
        go: R.Tensor((), "bool") = R.less(i, R.const(4, "int32"))
        if go:
            a: R.Tensor((5, 7), "float32") = R.exp(R.matmul(x, w))
            out: R.Tensor((5, 7), "float32") = cls.odd(R.add(i, R.const(1, "int32")), a, w)
        else:
            out: R.Tensor((5, 7), "float32") = x
        return out

    @R.function(private=True)
    def odd(i: R.Tensor((), "int32"), x: R.Tensor((5, 7), "float32"), w: R.Tensor((7, 7), "float32")) -> R.Tensor((5, 7), "float32"):
        cls = Mutual
        s: R.Tensor((5, 7), "float32") = R.nn.softmax(x, axis=-1)
        y: R.Tensor((5, 7), "float32") = cls.even(R.add(i, R.const(1, "int32")), s, R.permute_dims(w))
        return y

    @R.function
    def main(x: R.Tensor((5, 7), "float32"), w: R.Tensor((7, 7), "float32")):
        R.func_attr({"num_input": 1})
        cls = Mutual
        y: R.Tensor((5, 7), "float32") = cls.even(R.const(0, "int32"), x, w)
        return R.sum(y, axis=0)


CASES = [
    (Stack, None),
    (Stack, {"up": P(None, None, "tp"), "down": P(None, "tp", None)}),
    (Stack, {"layer.h": P("tp", None)}),
    (Stack, {"up": P("tp", None, None)}),
    (Pairs, None),
    (Pairs, {"w": P(None, None, "tp")}),
    (Pairs, {"main.x": P("tp", None), "main.return[1]": P("tp", None)}),
    (Mutual, {"w": P("tp", None), "main.return": P("tp")}),
    (Mutual, {"odd.x": P(None, "tp"), "even.x": P("tp", None)}),
]


@pytest.mark.parametrize(("mod", "specs"), CASES)
def test_loops_give_what_the_module_gives(mod, specs):
    """Numbers and traffic, a plan that is read back, and a proof."""
    sharded = assert_equivalent(mod, 2, specs, profile=FREE_LINKS, sizes={"n": 3})
    assert not [note for note in sharded.plan.notes if "replicated" in note]
    again = spmd.lower(mod, spmd.Plan.from_json(sharded.plan.to_json()))
    assert tvm_ffi.structural_equal(again, sharded.mod)
    assert spmd.verify(mod, sharded).undecided == ()


@pytest.mark.parametrize("mod", [Stack, Mutual], ids=["Stack", "Mutual"])
def test_loops_on_two_axes(mod):
    assert_equivalent(mod, Mesh(dp=2, tp=2), profile=FREE_LINKS)


def test_a_weight_of_a_loop_is_split_over_parts_of_an_axis():
    specs = {"up": P(None, "tp(2)2", "tp(1)2"), "down": P(None, "tp(1)2", "tp(2)2")}
    assert str(assert_equivalent(Stack, Mesh(tp=4), specs, sizes={"layer": 3}).plan.values["layer.up"]) == "[-, tp(2)2, tp(1)2]"


def test_a_loop_that_cannot_take_a_weight_as_it_is_kept():
    specs = {"layer.up": P(None, None, None), "up": P(None, None, "tp")}
    message = "main: 'up' and main: 'up': a loop is passed it as it is kept, as [-, -, tp], and has no way to take it so (but as [-, -, -])"
    with pytest.raises(spmd.ShardingError, match=re.escape(message)):
        spmd.shard(Stack, 2, specs, sizes={"layer": 3})


def test_weights_stacked_by_layer_stay_split():
    """A loop gathers no weights of all layers, however much cheaper that would be once than a sum in each turn."""
    plan = spmd.plan(Stack, 2, {"up": P(None, None, "tp"), "down": P(None, "tp", None)})
    assert [(c.function, c.kind, c.value) for c in plan.collectives] == [("layer", "all_reduce", "c")]
    assert {name: str(plan.values[f"layer.{name}"]) for name in ("up", "down")} == {"up": "[-, -, tp]", "down": "[-, tp, -]"}


def test_a_loop_takes_the_time_of_its_turns():
    once, often = (spmd.plan(Stack, 2, {"main.x": P(None, None)}, sizes={"layer": n}, profile=FREE_LINKS) for n in (1, 10))
    assert often.predicted["layer"] == pytest.approx(10 * once.predicted["layer"])
    assert often.cost == pytest.approx(sum(often.predicted.values()))
    assert not [note for note in often.notes if "loop" in note]
    assert "layer is a loop, planned for 8 turns; say how many with sizes={'layer': ...}" in spmd.plan(Stack, 2).notes


def test_memory_of_a_loop_is_that_of_who_calls_it():
    """What it is passed lies there already, and is not counted again."""
    plan = spmd.plan(Stack, 2)
    assert plan.memory["main"].activations >= plan.memory["layer"].activations > 0
    assert plan.memory["layer"].activations < 3 * 8 * 12 * 4


def test_a_proof_of_a_loop_that_does_not_end():
    """Arbitrary numbers may never end a loop: what is not shown is said."""

    @I.ir_module
    class Endless:
        @R.function(private=True)
        def turn(x: R.Tensor((4,), "float32"), n: R.Tensor((), "int32")) -> R.Tensor((4,), "float32"):
            cls = Endless
            go: R.Tensor((), "bool") = R.less(n, R.const(1000, "int32"))
            if go:
                out: R.Tensor((4,), "float32") = cls.turn(R.negative(x), R.add(n, R.const(1, "int32")))
            else:
                out: R.Tensor((4,), "float32") = x
            return out

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Endless
            y: R.Tensor((4,), "float32") = cls.turn(x, R.const(0, "int32"))
            return y

    proof = spmd.verify(Endless, spmd.shard(Endless, 2, {"main.x": P("tp")}))
    assert any("a loop of 'turn' that does not end in 48 turns" in text for text in proof.undecided)
