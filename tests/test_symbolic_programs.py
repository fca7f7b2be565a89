"""Symbolic sizes merged with others, as importers of batched products write them: heads and batches stay split, or a note says why not."""

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import spmd
from spmd import Mesh, P
from spmd.testing import FREE_LINKS, assert_equivalent


@I.ir_module
class Attention:
    """Products of n sequences by 6 heads of a mask, with both sizes merged around each product; the heads come in 2 groups."""

    @R.function
    def main(
        q: R.Tensor(("n", 6, "s", 4), "float32"), k: R.Tensor(("n", 2, "s", 4), "float32"), m: R.Tensor(("s", "s"), "float32")
    ) -> R.Tensor(("n", 6, "s", 4), "float32"):
        R.func_attr({"num_input": 3})
        n, s = T.int64(), T.int64()
        with R.dataflow():
            one = R.expand_dims(k, axis=[2])
            three = R.broadcast_to(one, R.shape([n, 2, 3, s, 4]))
            all = R.reshape(three, R.shape([n, 6, s, 4]))
            keys = R.reshape(R.permute_dims(all, axes=[0, 1, 3, 2]), R.shape([n * 6, 4, s]))
            scores = R.matmul(R.reshape(q, R.shape([n * 6, s, 4])), keys)
            masked = R.add(R.reshape(scores, R.shape([n, 6, s, s])), m)
            rows = R.reshape(R.nn.softmax(masked, axis=-1), R.shape([n * 6, s, s]))
            out = R.reshape(R.matmul(rows, R.reshape(all, R.shape([n * 6, s, 4]))), R.shape([n, 6, s, 4]))
            R.output(out)
        return out


@I.ir_module
class Rows:
    """Sequences of n times s rows, both merged around a product with a weight."""

    @R.function
    def main(x: R.Tensor(("n", "s", 16), "float32"), w: R.Tensor((16, 24), "float32")) -> R.Tensor(("n", "s", 24), "float32"):
        R.func_attr({"num_input": 1})
        n, s = T.int64(), T.int64()
        with R.dataflow():
            a = R.reshape(x, R.shape([n * s, 16]))
            b = R.matmul(a, w)
            c = R.reshape(b, R.shape([n, s, 24]))
            R.output(c)
        return c


@I.ir_module
class Between:
    """Heads between two symbolic sizes, and all three merged."""

    @R.function
    def main(x: R.Tensor(("n", 8, "s", 4), "float32")) -> R.Tensor(("n * 8 * s", 4), "float32"):
        R.func_attr({"num_input": 1})
        n, s = T.int64(), T.int64()
        with R.dataflow():
            y = R.tanh(x)
            z = R.reshape(y, R.shape([n * 8 * s, 4]))
            R.output(z)
        return z


HEADS = {name: P(None, "tp", None, None) for name in ("main.q", "main.k", "main.return")}


@pytest.mark.parametrize("sizes", [{"n": 3, "s": 5}, {"n": 1, "s": 2}], ids=str)
def test_heads_under_a_symbolic_batch_stay_split(sizes):
    sharded = assert_equivalent(Attention, 2, HEADS, sizes=sizes)
    assert not sharded.plan.collectives
    assert str(sharded.plan.values["main.scores"]) == "[tp:*6, -, -]"
    assert spmd.Plan.from_json(sharded.plan.to_json()) == sharded.plan


@pytest.mark.parametrize("mesh", [3, 4, Mesh(dp=2, tp=2), Mesh(dp=3, tp=2)], ids=str)
def test_heads_that_workers_do_not_divide(mesh):
    """What is split unevenly, or gathered, is right all the same."""
    assert_equivalent(Attention, mesh, {"main.q": P(None, "tp", None, None)}, sizes={"n": 3, "s": 5})
    assert_equivalent(Attention, mesh, {"main.q": P(None, "tp", None, None)}, sizes={"n": 4, "s": 6}, divisible={"n": 2, "s": 6})


def test_a_batch_merged_with_a_symbolic_length_stays_split():
    specs = {name: P("tp", None, None) for name in ("main.x", "main.return")}
    sharded = assert_equivalent(Rows, 2, specs, divisible={"n": 2}, sizes={"n": 4, "s": 5})
    assert not sharded.plan.collectives
    assert not sharded.plan.notes


def test_a_length_merged_under_a_symbolic_batch_stays_split():
    """Nothing is sent; no shard tells s, which is an argument of its own."""
    specs = {name: P(None, "tp", None) for name in ("main.x", "main.return")}
    sharded = assert_equivalent(Rows, 2, specs, divisible={"s": 2}, sizes={"n": 3, "s": 4})
    assert not sharded.plan.collectives
    assert not sharded.plan.notes
    assert str(sharded.plan.values["main.b"]) == "[tp:*2*s, -]"
    assert sharded.plan.functions["main"].sizes == ("s",)
    assert spmd.Plan.from_json(sharded.plan.to_json()) == sharded.plan


def test_a_note_says_where_a_symbolic_size_keeps_something_whole():
    specs = {name: P(None, "tp", None) for name in ("main.x", "main.return")}
    notes = assert_equivalent(Rows, 2, specs, sizes={"n": 3, "s": 5}).plan.notes
    assert notes == [
        "relax.reshape 'a' of 'main' takes dimension 1 of 'x' whole, and not split as tp:~1, because of the symbolic sizes 's', 'n'. "
        "Give 's' a number, or let it be split: divisible={'s': 2}",
        "relax.reshape 'c' of 'main' makes dimension 1 of 'c' whole, and not split as tp:~1, because of the symbolic sizes 'n', 's'. "
        "Give 'n' a number, or let it be split: divisible={'n': 2}",
    ]


@I.ir_module
class After:
    """Of two operators the first could stay split, and the second not; before the first there is less to gather."""

    @R.function
    def main(x: R.Tensor(("n", "s", 16), "float16")):
        n, s = T.int64(), T.int64()
        with R.dataflow():
            y = R.astype(x, "float32")
            z = R.reshape(y, R.shape([n * s, 16]))
            R.output(z)
        return z


def test_a_note_names_the_operator_after_those_that_could_stay_split():
    notes = spmd.plan(After, 2, {"main.x": P(None, "tp", None)}).notes
    assert [note.split(",")[0] for note in notes] == ["relax.reshape 'z' of 'main' takes dimension 1 of 'y' whole"]


def test_heads_between_symbolic_sizes_stay_split_when_all_are_merged():
    """As a pattern of blocks whose length is known when the program runs."""
    specs = {"main.x": P(None, "tp", None, None)}
    assert_equivalent(Between, 2, specs, sizes={"n": 3, "s": 5}, profile="generic")
    plan = spmd.plan(Between, 2, specs)
    assert str(plan.values["main.z"]) == "[tp:*8*8.s, -]"
    assert not plan.notes
    assert not any("symbolic" in note for note in spmd.plan(Between, 2).notes)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize(("heads", "groups"), [(8, 8), (4, 4), (8, 4)])
@pytest.mark.parametrize("specs", [{}, {"p_[qkv]_weight": P("tp", None), "p_o_weight": P(None, "tp")}], ids=["free", "megatron"])
def test_attention_of_torch_sends_one_sum(heads, groups, specs, workers):
    """Batch and length dynamic, linear layers and attention decomposed into batched products."""
    torch = pytest.importorskip("torch")
    from tvm.relax.frontend.torch import from_exported_program

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.o = (torch.nn.Linear(32, 32, bias=False) for _ in range(2))
            self.k, self.v = (torch.nn.Linear(32, groups * 32 // heads, bias=False) for _ in range(2))

        def forward(self, x):
            n, s, _ = x.shape
            q, k, v = (f(x).view(n, s, -1, 32 // heads).transpose(1, 2) for f in (self.q, self.k, self.v))
            each = heads // groups
            k, v = (y[:, :, None].expand(n, groups, each, s, 32 // heads).reshape(n, heads, s, 32 // heads) for y in (k, v))
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o(y.transpose(1, 2).reshape(n, s, -1))

    torch.manual_seed(0)
    layer = Layer().eval()
    sizes = {0: torch.export.Dim("n", min=2, max=64), 1: torch.export.Dim("s", min=2, max=64)}
    exported = torch.export.export(layer, (torch.randn(3, 5, 32),), dynamic_shapes=(sizes,)).run_decompositions()
    sharded = spmd.shard(from_exported_program(exported, keep_params_as_input=True), workers, specs, profile=FREE_LINKS)
    assert [c.kind for c in sharded.plan.collectives] == ["all_reduce"]
    weights = [getattr(layer, name).weight.detach().numpy() for name in ("q", "k", "v", "o")]
    order = [p.name[2] for p in sharded.plan.functions["main"].params[1:]]
    weights = [dict(zip("qkvo", weights, strict=True))[name] for name in order]
    with spmd.workers(sharded) as w:
        for n, s in ((2, 3), (3, 5)):
            x = torch.randn(n, s, 32)
            found = w["main"](x.numpy(), *weights)
            np.testing.assert_allclose(found[0], layer(x).detach().numpy(), rtol=1e-4, atol=1e-5)
