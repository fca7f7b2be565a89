"""Whole programs that look for the largest in what is sharded, or look up by what they found."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from spmd import P
from spmd.testing import assert_equivalent


@I.ir_module
class Greedy:
    """The next token, and its logit."""

    @R.function
    def main(h: R.Tensor((1, 8), "float32"), head: R.Tensor((8, 51), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            logits = R.matmul(h, head)
            token = R.argmax(logits, axis=-1)
            logit = R.max(logits, axis=-1)
            R.output(token, logit)
        return token, logit


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_the_best_token_of_a_sharded_vocabulary_takes_three_small_all_reduces(workers):
    """Where the last NaN is, the best of what follows it, its place."""
    sharded = assert_equivalent(Greedy, workers, {"head": P(None, "tp")})
    found = [(c.kind, c.bytes) for c in sharded.plan.collectives if c.value == "token"]
    assert found == [("all_reduce", 8), ("all_reduce", 4), ("all_reduce", 8)]
    assert max(c.bytes for c in sharded.plan.collectives) == 8


@I.ir_module
class Router:
    """The three best experts for a token, and their shares."""

    @R.function
    def main(h: R.Tensor((1, 8), "float32"), experts: R.Tensor((8, 22), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            best = R.topk(R.matmul(h, experts), k=3, axis=-1, ret_type="both", largest=True, dtype="int32")
            shares = R.nn.softmax(best[0], axis=-1)
            chosen = best[1]
            R.output(shares, chosen)
        return shares, chosen


@pytest.mark.parametrize("workers", [2, 4])
def test_the_best_of_sharded_scores_are_chosen_from_candidates(workers):
    sharded = assert_equivalent(Router, workers, {"experts": P(None, "tp")})
    assert [(c.kind, c.bytes) for c in sharded.plan.collectives] == [("all_gather", 3 * 4)] * 2


@I.ir_module
class OneHotTable:
    """An embedding written as a product."""

    @R.function
    def main(ids: R.Tensor((2, 3), "int64"), table: R.Tensor((50, 6), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            hot = R.one_hot(ids, R.prim_value(T.float32(1)), R.prim_value(T.float32(0)), depth=50, axis=-1)
            rows = R.matmul(hot, table)
            R.output(rows)
        return rows


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_one_hot_vectors_times_a_table_split_over_its_rows(workers):
    sharded = assert_equivalent(OneHotTable, workers, {"table": P("tp", None)})
    assert [(c.kind, c.bytes) for c in sharded.plan.collectives] == [("all_reduce", 6 * 6 * 4)]


@I.ir_module
class Sampling:
    """A token drawn from the probabilities of each row, and all tokens in the order of theirs."""

    @R.function
    def main(
        h: R.Tensor((4, 8), "float32"),
        chance: R.Tensor((4, 1), "float32"),
        rows: R.Tensor((4, 1), "int64"),
        head: R.Tensor((8, 12), "float32"),
    ):
        R.func_attr({"num_input": 3})
        with R.dataflow():
            shares = R.nn.softmax(R.matmul(h, head), axis=-1)
            token = R.multinomial_from_uniform(shares, R.sigmoid(chance), rows, dtype="int64")
            order = R.argsort(shares, axis=-1, descending=True, dtype="int64")
            R.output(token, order)
        return token, order


@pytest.mark.parametrize("specs", [{"head": P(None, "tp")}, {"main.h": P("tp", None)}])
def test_samples_and_orders_are_those_of_one_worker(specs):
    assert_equivalent(Sampling, 2, specs)


@I.ir_module
class Distinct:
    """A size that depends on data, named by a match_cast."""

    @R.function
    def main(x: R.Tensor((8, 6), "float32"), w: R.Tensor((6, 4), "float32")):
        k = T.int64()
        with R.dataflow():
            found = R.unique(
                R.clip(R.round(R.matmul(x, w)), -1, 1), R.prim_value(True), R.prim_value(False), R.prim_value(False), R.prim_value(False)
            )
            named = R.match_cast(found, R.Tensor((k,), "float32"))
            y = R.multiply(named, named)
            R.output(y)
        return y


def test_a_size_that_depends_on_data_is_replicated_with_the_reason():
    plan = assert_equivalent(Distinct, 2, {"main.w": P(None, "tp")}).plan
    assert "relax.unique is replicated, as the shape of 'found' is known only when it runs" in plan.explain()
