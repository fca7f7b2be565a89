"""Whole programs with cumulative sums along a sharded sequence."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from spmd import P
from spmd.testing import assert_equivalent


@I.ir_module
class PackedAttention:
    """Causal attention; the place of a token is the number of tokens before it that are no filling."""

    @R.function
    def main(x: R.Tensor((1, 10, 8), "float32"), real: R.Tensor((1, 10), "int32"), w: R.Tensor((8, 24), "float32")):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            places = R.cumsum(real, axis=1, exclusive=True)
            parts = R.split(R.matmul(x, w), 3, axis=-1)
            q, k, v = parts[0], parts[1], parts[2]
            scores = R.matmul(q, R.permute_dims(k, [0, 2, 1]))
            seen = R.greater_equal(R.expand_dims(places, 2), R.expand_dims(places, 1))
            shares = R.nn.softmax(R.where(seen, scores, R.const(-1e9, "float32")), axis=-1)
            y = R.matmul(shares, v)
            R.output(y)
        return y


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_causal_attention_with_counted_places_over_a_sharded_sequence(workers):
    along = {"main.x": P(None, "tp", None), "main.real": P(None, "tp")}
    sharded = assert_equivalent(PackedAttention, workers, along)
    totals = next(c for c in sharded.plan.collectives if c.value == "places")
    assert (totals.kind, totals.bytes) == ("all_gather", 4)


@I.ir_module
class Segments:
    """Ragged rows laid end to end: where each starts, and a running product of how much is kept."""

    @R.function
    def main(sizes: R.Tensor((7,), "int64"), kept: R.Tensor((3, 5), "float64"), data: R.Tensor((30, 4), "float64")):
        with R.dataflow():
            starts = R.cumsum(sizes, axis=0, exclusive=True)
            rows = R.take(data, starts, axis=0)
            decay = R.cumprod(R.sigmoid(kept))
            R.output(rows, decay)
        return rows, decay


@pytest.mark.parametrize("workers", [2, 4])
def test_starts_of_ragged_rows_and_decay_over_a_flattened_tensor(workers):
    assert_equivalent(Segments, workers, {"main.sizes": P("tp"), "main.kept": P(None, "tp"), "main.data": P("tp", None)})
