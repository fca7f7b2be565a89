"""Symbolic sizes that can be divided: dimensions nobody knows the size of, split."""

import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import Mesh, P, ShardingError
from spmd.testing import assert_equivalent


@I.ir_module
class Tokens:
    """A dense layer over n tokens, a sum over them, one that regroups them, and one where a weight has the symbolic size."""

    @R.function
    def dense(x: R.Tensor(("n", 16), "float32"), w: R.Tensor((16, 32), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.nn.silu(R.matmul(x, w))
            R.output(y)
        return y

    @R.function
    def total(x: R.Tensor(("n", 16), "float32")):
        with R.dataflow():
            y = R.sum(x, axis=[0])
            R.output(y)
        return y

    @R.function
    def softmax(x: R.Tensor(("b", "n"), "float32")):
        with R.dataflow():
            y = R.nn.softmax(x, axis=-1)
            R.output(y)
        return y

    @R.function
    def flatten(x: R.Tensor((3, "n", 4), "float32")):
        n = T.int64()
        with R.dataflow():
            y = R.tanh(R.reshape(x, R.shape([3 * n, 4])))
            R.output(y)
        return y

    @R.function
    def head(h: R.Tensor((2, 16), "float32"), w: R.Tensor(("vocab", 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(h, R.permute_dims(w))
            R.output(y)
        return y


DIVISIBLE = {"n": 12, "vocab": 12}


@pytest.mark.parametrize("mesh", [2, 3, 4, Mesh(dp=2, tp=2)], ids=str)
def test_what_free_links_split(mesh):
    sharded = assert_equivalent(Tokens, mesh, divisible=DIVISIBLE, sizes={"n": 24, "b": 5, "vocab": 36})
    assert not sharded.plan.params["w"].is_replicated


@pytest.mark.parametrize("mesh", [2, 3], ids=str)
def test_what_specs_ask_for(mesh):
    specs = {"dense.x": P("tp", None), "total.x": P("tp", None), "softmax.x": P(None, "tp"), "flatten.x": P(None, "tp", None)}
    specs |= {"dense.return": P("tp", None), "flatten.y": P("tp", None), "head.w": P("tp", None)}
    sharded = assert_equivalent(Tokens, mesh, {k: v for k, v in specs.items() if k != "head.w"}, divisible=DIVISIBLE)
    assert str(sharded.plan.inputs["dense.x"]) == "[tp:12*, -]"
    assert "n_block" in sharded.mod["total"].script()  # no parameter has n itself


def test_a_weight_of_symbolic_size_is_split():
    sharded = spmd.shard(Tokens, 4, {"w#2": P("tp", None)}, divisible=DIVISIBLE)
    w = np.random.default_rng(0).normal(size=(24, 16)).astype("float32")
    h = np.ones((2, 16), "float32")
    with spmd.workers(sharded) as workers:
        np.testing.assert_allclose(workers["head"](h, w), h @ w.T, rtol=1e-5)


def test_a_size_that_breaks_the_word_is_an_error_before_anything_runs():
    sharded = spmd.shard(Tokens, 2, {"total.x": P("tp", None)}, divisible={"n": 4})
    with spmd.workers(sharded) as workers:
        assert workers["total"](np.ones((8, 16), "float32")).tolist() == [8.0] * 16
        with pytest.raises(ShardingError, match=r"in multiples of 4, and got float32 \[6, 16\]\. Pad it"):
            workers["total"](np.ones((6, 16), "float32"))


def test_a_size_that_breaks_the_word_is_an_error_where_an_argument_is_whole():
    module = tvm.IRModule({gv: f for gv, f in Parts.functions_items() if gv.name_hint == "chain"})
    sharded = spmd.shard(module, 4, {"chain.x": P(None, None), "chain.y": P("tp", None)}, divisible={"n": 8})
    with spmd.workers(sharded) as workers:
        assert workers["chain"](np.ones((8, 3), "float32")).shape == (8, 3)
        with pytest.raises(ShardingError, match=r"in multiples of 8, and got float32 \[12, 3\]\. Pad it"):
            workers["chain"](np.ones((12, 3), "float32"))


def test_what_cannot_be_is_said():
    with pytest.raises(ShardingError, match=r"'n' is said to be divisible by 0"):
        spmd.plan(Tokens, 2, divisible={"n": 0})
    with pytest.raises(ShardingError, match=r"sizes\['n'\] is 10, and divisible\['n'\] is 4"):
        spmd.plan(Tokens, 2, divisible={"n": 4}, sizes={"n": 10})
    with pytest.raises(ShardingError, match=r"splits dimension 0, whose size is symbolic and divisible by 6, over several axes"):
        spmd.plan(Tokens, Mesh(dp=2, tp=2), {"total.x": P(("dp", "tp"), None)}, divisible={"n": 6})
    with pytest.raises(ShardingError, match=r"splits dimension 0, whose size is symbolic, by segments\. Say with divisible"):
        spmd.plan(Tokens, 2, {"total.x": P(("tp", 3, 5), None)})


@I.ir_module
class Parts:
    """n rows negated twice, unfolded from n * 4 numbers, and a sum over groups."""

    @R.function
    def chain(x: R.Tensor(("n", 3), "float32")):
        with R.dataflow():
            y = R.negative(x)
            z = R.negative(y)
            R.output(z)
        return z

    @R.function
    def unfolded(x: R.Tensor(("n * 4",), "float32"), c: R.Tensor(("n", 1), "float32")):
        n = T.int64()
        with R.dataflow():
            rows = R.reshape(x, R.shape([n, 4]))
            out = R.add(rows, c)
            R.output(out)
        return out

    @R.function
    def groups(x: R.Tensor(("n", 8, 6), "float32")):
        n = T.int64()
        with R.dataflow():
            parts = R.reshape(x, R.shape([n, 2, 4, 6]))
            total = R.sum(parts, axis=[2])
            out = R.tanh(total)
            R.output(out)
        return out


FOUR, GRID = Mesh(tp=4), Mesh(dp=2, tp=2)
PARTS = [
    (GRID, {"unfolded.x": P(("dp", "tp"))}, 2),
    (FOUR, {"unfolded.x": P("tp"), "unfolded.return": P("tp(1)2", "tp(2)2")}, 2),
    (FOUR, {"unfolded.x": P("tp"), "unfolded.rows": P("tp(1)2", "tp(2)2")}, 2),
    (FOUR, {"unfolded.x": P("tp(2)2"), "unfolded.rows": P("tp(1)2", None)}, 4),
    (FOUR, {"chain.x": P("tp", None), "chain.y": P("tp(1)2", None), "chain.return": P("tp(1)2", None)}, 8),
    (FOUR, {"chain.x": P("tp", None), "chain.y": P("tp(1)2", None)}, 8),
    (FOUR, {"chain.x": P("tp(1)2", None), "chain.y": P("tp", None)}, 8),
    (FOUR, {"chain.x": P("tp(2)2", None), "chain.y": P("tp", None), "chain.return": P(("tp(2)2", "tp(1)2"), None)}, 8),
    (GRID, {"chain.x": P(("dp", "tp"), None), "chain.y": P(("tp", "dp"), None), "chain.return": P("tp", None)}, 4),
    (FOUR, {"groups.x": P("tp", None, None), "groups.return": P(None, "tp(1)2", None)}, 4),
    (GRID, {"groups.x": P("dp", "tp", None), "groups.return": P(("tp", "dp"), None, None)}, 4),
]


@pytest.mark.parametrize("case", range(len(PARTS)))
def test_several_axes_and_parts_of_one(case):
    """The numbers are right, and the bytes of the plan are those that move."""
    mesh, specs, divisible = PARTS[case]
    (name,) = {key.partition(".")[0] for key in specs}
    module = tvm.IRModule({gv: f for gv, f in Parts.functions_items() if gv.name_hint == name})
    assert_equivalent(module, mesh, specs, divisible={"n": divisible}, sizes={"n": 16})
