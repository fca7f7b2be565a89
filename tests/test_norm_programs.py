"""Norms, softmax and losses between products that are split by columns and by rows."""

import pytest
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from spmd import P
from spmd.costs.profile import Profile
from spmd.testing import assert_equivalent

SLOW_LINKS = Profile("slow links", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e6, link_latency=1e-12)
"""Bytes count, so that even tiny tensors are not gathered."""


@I.ir_module
class Normed:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"), w1: R.Tensor((8, 18), "float32"), g: R.Tensor((18,), "float32"), w2: R.Tensor((18, 8), "float32")
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            up = R.matmul(x, w1)
            normed = R.nn.rms_norm(up, g, axes=[-1])
            down = R.matmul(normed, w2)
            R.output(down)
        return down


@I.ir_module
class Softmaxed:
    @R.function
    def main(x: R.Tensor((5, 8), "float64"), w1: R.Tensor((8, 18), "float64"), w2: R.Tensor((18, 8), "float64")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            up = R.matmul(x, w1)
            weights = R.nn.softmax(up, axis=-1)
            down = R.matmul(weights, w2)
            R.output(down)
        return down


@I.ir_module
class Vocabulary:
    @R.function
    def main(x: R.Tensor((6, 8), "float64"), targets: R.Tensor((6,), "int64"), w: R.Tensor((8, 50), "float64")):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            logits = R.matmul(x, w)
            predictions = R.nn.log_softmax(logits, axis=-1)
            loss = R.nn.nll_loss(predictions, targets, reduction="mean", ignore_index=3)
            R.output(loss)
        return loss


@I.ir_module
class Biased:
    @R.function
    def main(x: R.Tensor((4, 10), "float32"), w: R.Tensor((10, 8), "float32"), b: R.Tensor((8,), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(x, w)
            z = R.add(y, b)
            R.output(z)
        return z


@I.ir_module
class Cosine:
    @R.function
    def main(a: R.Tensor((4, 10), "float64"), b: R.Tensor((4, 10), "float64")):
        with R.dataflow():
            product = R.multiply(a, b)
            dot = R.sum(product, axis=[-1])
            aa = R.multiply(a, a)
            bb = R.multiply(b, b)
            sa = R.sum(aa, axis=[-1])
            sb = R.sum(bb, axis=[-1])
            lengths = R.multiply(R.sqrt(sa), R.sqrt(sb))
            similarity = R.divide(dot, lengths)
            R.output(similarity)
        return similarity


def traffic(sharded):
    return sorted((c.kind, c.bytes) for c in sharded.plan.collectives)


@pytest.mark.parametrize("workers", [2, 4])
def test_rms_norm_of_what_a_product_left_split_reduces_one_number_a_row(workers):
    specs = {"w1": P(None, "tp"), "g": P("tp"), "w2": P("tp", None)}
    sharded = assert_equivalent(Normed, workers, specs, sizes={"n": 5})
    assert traffic(sharded) == [("all_reduce", 5 * 4), ("all_reduce", 5 * 8 * 4)]


@pytest.mark.parametrize("workers", [2, 4])
def test_softmax_of_what_a_product_left_split_reduces_two_numbers_a_row(workers):
    sharded = assert_equivalent(Softmaxed, workers, {"w1": P(None, "tp"), "w2": P("tp", None)})
    assert traffic(sharded) == [("all_reduce", 5 * 8)] * 2 + [("all_reduce", 5 * 8 * 8)]


@pytest.mark.parametrize("workers", [2, 3])
def test_the_loss_of_a_split_vocabulary_gathers_no_logits(workers):
    split = P(None, "tp")
    sharded = assert_equivalent(Vocabulary, workers, {"w": split, "main.logits": split, "main.predictions": split}, profile=SLOW_LINKS)
    assert traffic(sharded) == [("all_reduce", 8), ("all_reduce", 6 * 8), ("all_reduce", 6 * 8)]


@pytest.mark.parametrize("fused", [False, True])
def test_a_bias_after_a_product_by_rows_is_added_once(fused):
    mod = Biased
    if fused:
        passes = [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
        ]
        for each in passes:
            mod = each(mod)
        assert len(mod["main"].body.blocks[0].bindings) == 1
    assert_equivalent(mod, 4, {"w": P("tp", None)})


@pytest.mark.parametrize("workers", [2, 3])
def test_cosine_similarity_over_a_split_dimension(workers):
    specs = {"main.a": P(None, "tp"), "main.b": P(None, "tp")}
    assert_equivalent(Cosine, workers, specs)
