"""Symbolic sizes that nobody called divisible, split where a spec asks: one program, with any number of rows on any number of workers."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import Mesh, P, ShardingError
from spmd.testing import FREE_LINKS, assert_equivalent
from spmd.verify import verify


@I.ir_module
class Rows:
    """Of n rows: a layer of a model, its reductions, what needs them all, and a table of them as a weight."""

    @R.function
    def layer(
        x: R.Tensor(("n", 16), "float32"),
        g: R.Tensor((16,), "float32"),
        w: R.Tensor((16, 32), "float32"),
        v: R.Tensor((32, 16), "float32"),
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.nn.rms_norm(x, g, axes=[-1])
            b = R.nn.silu(R.matmul(a, w))
            y = R.add(R.matmul(b, v), x)
            R.output(y)
        return y

    @R.function
    def reduced(x: R.Tensor(("n", 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            e = R.exp(x)
            total = R.sum(e, axis=[0])
            least = R.min(e, axis=[0])
            gram = R.matmul(R.permute_dims(e), e)
            R.output(total, least, gram)
        return total, least, gram

    @R.function
    def softmax(x: R.Tensor(("n", 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.nn.softmax(x, axis=0)
            R.output(y)
        return y

    @R.function
    def heads(x: R.Tensor(("n", 4, 6), "float32")):
        R.func_attr({"num_input": 1})
        n = T.int64()
        with R.dataflow():
            y = R.tanh(R.reshape(x, R.shape([n * 4, 6])))
            R.output(y)
        return y

    @R.function
    def table(h: R.Tensor((2, 16), "float32"), rows: R.Tensor(("vocab", 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(h, R.permute_dims(rows))
            R.output(y)
        return y


BY_ROWS = {f"{name}.x": P("tp", None) for name in ("layer", "reduced", "softmax")} | {"heads.x": P("tp", None, None), "rows": P("tp", None)}
SPLIT = BY_ROWS | {"layer.y": P("tp", None), "layer.return": P("tp", None)}


@pytest.mark.parametrize(("mesh", "n"), [(2, 5), (3, 1), (4, 6)], ids=str)
def test_rows_that_workers_do_not_divide(mesh, n):
    sharded = assert_equivalent(Rows, mesh, SPLIT, sizes={"n": n, "vocab": 7})
    assert str(sharded.plan.values["layer.y"]) == "[tp:~1, -]"
    assert {name: signature.sizes for name, signature in sharded.plan.functions.items() if signature.sizes} == {
        **dict.fromkeys(("heads", "layer", "reduced", "softmax"), ("n",)),
        "table": ("vocab",),
    }


def test_one_program_for_every_number_of_rows():
    """As arrays, and as handles of what stays on the workers; a row-wise function takes no rows, too."""
    sharded, dice = spmd.shard(Rows, 2, SPLIT, profile=FREE_LINKS), np.random.default_rng(0)
    weights = [dice.normal(size=shape).astype("float32") for shape in ((16,), (16, 32), (32, 16))]
    with spmd.workers(sharded) as many, spmd.workers(Rows) as one:
        for n in (0, 1, 2, 5, 8):
            x = dice.normal(size=(n, 16)).astype("float32")
            kept = many["layer"](x, *weights, keep=True)
            assert kept.shape == (n, 16)
            np.testing.assert_allclose(kept.numpy(), one["layer"](x, *weights), rtol=1e-4, atol=1e-5)
            if n:
                for found, wanted in zip(many["reduced"](kept), one["reduced"](kept.numpy()), strict=True):
                    np.testing.assert_allclose(found, wanted, rtol=1e-4)
            np.testing.assert_allclose(many["heads"](np.ones((n, 4, 6), "float32")), one["heads"](np.ones((n, 4, 6), "float32")))
        h, rows = np.ones((2, 16), "float32"), dice.normal(size=(7, 16)).astype("float32")
        (table,) = many.load({"rows": rows}, function="table")
        np.testing.assert_allclose(many["table"](h, table), h @ rows.T, rtol=1e-4, atol=1e-5)


WAYS = {
    "all_gather": {"reduced.x": P("tp", None), "reduced.e": P(None, None)},
    "all_to_all": {"reduced.x": P("tp", None), "reduced.e": P(None, "tp")},
    "permute": {"layer.x": P("dp", None), "layer.a": P("tp", None), "layer.return": P("tp", None)},
}


@pytest.mark.parametrize("kind", WAYS)
def test_collectives_over_uneven_rows(kind):
    specs = WAYS[kind]
    (name,) = {key.partition(".")[0] for key in specs}
    module = tvm.IRModule({gv: f for gv, f in Rows.functions_items() if gv.name_hint == name})
    sharded = assert_equivalent(module, Mesh(dp=2, tp=2), specs, sizes={"n": 5})
    assert kind in {c.kind for c in sharded.plan.collectives}


def test_what_hangs_on_the_size_takes_it_whole():
    (note,) = [n for n in spmd.plan(Rows, 2, SPLIT).notes if "softmax" in n]
    assert note == (
        "relax.nn.softmax 'y' of 'softmax' takes dimension 0 of 'x' whole, and not split as tp:~1, because of the symbolic size 'n'. "
        "Give 'n' a number, or split another dimension"
    )


def test_a_compiled_library_tells_workers_the_size(tmp_path):
    module = tvm.IRModule({gv: f for gv, f in Rows.functions_items() if gv.name_hint == "reduced"})
    spmd.build(spmd.shard(module, 2, {"reduced.x": P("tp", None)})).export(tmp_path)
    x = np.arange(48, dtype="float32").reshape(3, 16) / 48
    with spmd.workers(spmd.load(tmp_path)) as w:
        np.testing.assert_allclose(w["reduced"](x)[0], np.exp(x).sum(0), rtol=1e-5)


def test_the_verifier_proves_it():
    specs = {"heads.x": P("tp", None, None), "heads.y": P("tp", None), "rows": P("tp", None)}
    module = tvm.IRModule({gv: f for gv, f in Rows.functions_items() if gv.name_hint in ("heads", "table")})
    assert verify(module, spmd.shard(module, 2, specs))


@I.ir_module
class Made:
    """Rows of which only a shape tells how many there are."""

    @R.function
    def main(shape: R.Shape(["n"]), x: R.Tensor((4,), "float32")):
        n = T.int64()
        with R.dataflow():
            y = R.broadcast_to(x, R.shape([n, 4]))
            R.output(y)
        return y


def test_what_is_refused():
    with pytest.raises(ShardingError, match=r"it returns .y. split as tp:~1 along the size n, and no argument tells these\. Ret"):
        spmd.shard(Made, 2, {"main.return": P("tp", None)})
    plan = spmd.plan(Rows, 2, SPLIT)
    plan.functions["reduced"] = replace(plan.functions["reduced"], sizes=())
    with pytest.raises(ShardingError, match=r"it has a worker told the sizes \[\] where the module has a worker told \['n'\]"):
        spmd.lower(Rows, plan)
