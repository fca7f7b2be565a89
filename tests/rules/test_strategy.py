"""Factor splits to shardings and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Sharding, Split
from spmd.rules.expression import bind
from spmd.rules.model import Form
from spmd.rules.strategy import complete, partial_strategy, replicate, splits_from, strategy_of

MESH = Mesh(tp=2)
MATMUL = bind("m k, k n -> m n", [(4, 6), (6, 8)], [(4, 8)], zero="any", linear=((0,), (1,)))
QKV = bind("t [(h r) h h] d -> t (h r) d", [(5, 16, 4)], [(5, 8, 4)], {"h": 4, "r": 2}, whole="t r d", reduce=None)


def over(*sizes, unit=1):
    return Split(("tp",), tuple(Segment(s, unit) for s in sizes))


def text(strategy):
    return [str(s) for s in (*strategy.inputs, *strategy.outputs)]


def test_a_factor_splits_every_dimension_that_holds_it():
    assert text(strategy_of(MATMUL, {"m": over(4)}, MESH)) == ["[tp, -]", "[-, -]", "[tp, -]"]
    assert text(strategy_of(MATMUL, {"n": over(8)}, MESH)) == ["[-, -]", "[-, tp]", "[-, tp]"]
    assert text(strategy_of(MATMUL, {"n": over(6, 2)}, MESH)) == ["[-, -]", "[-, tp:6|2]", "[-, tp:6|2]"]


def test_a_reduced_factor_leaves_a_partial():
    strategy = strategy_of(MATMUL, {"k": over(6)}, MESH)
    assert text(strategy) == ["[-, tp]", "[tp, -]", "[-, -] sum@tp"]
    assert str(strategy) == "k over tp"


def test_one_axis_cannot_split_two_dimensions_of_a_tensor():
    assert strategy_of(MATMUL, {"m": over(4), "n": over(8)}, MESH) is None


def test_a_whole_factor_and_an_irreducible_one_do_not_split():
    assert strategy_of(bind("m -> m", [(4,)], [(4,)], whole="m"), {"m": over(4)}, MESH) is None
    assert strategy_of(bind("m k -> m", [(4, 6)], [(4,)], reduce=None), {"k": over(6)}, MESH) is None


def test_padding_of_a_reduced_factor_needs_a_sum_that_zeros_do_not_change():
    three = Mesh(tp=4)
    assert strategy_of(MATMUL, {"k": over(6)}, three) is not None
    assert strategy_of(bind("k -> ", [(6,)], [()], zero="all"), {"k": over(6)}, three) is not None
    assert strategy_of(bind("k -> ", [(6,)], [()]), {"k": over(6)}, three) is None
    assert strategy_of(bind("k -> ", [(6,)], [()], zero="all", reduce="max"), {"k": over(6)}, three) is None
    assert str(strategy_of(bind("k -> ", [(6,)], [()], reduce="max"), {"k": over(6)}, MESH).outputs[0]) == "[] max@tp"
    # an input that does not hold the factor is added once for each padded place
    broadcast = bind("k, 1 -> ", [(6,), (1,)], [()], zero="all")
    assert strategy_of(broadcast, {"k": over(6)}, three) is None


def test_a_table_split_by_rows_gives_a_sum_though_the_operator_reduces_nothing():
    take = bind("v d, t -> t d", [(10, 4), (3,)], [(3, 4)], forms={"v": Form("lookup", partial="sum", ordered=True)})
    assert text(strategy_of(take, {"v": over(10)}, MESH)) == ["[tp, -]", "[-]", "[-, -] sum@tp"]
    assert strategy_of(take, {"v": over(4, 6)}, MESH) is None, "rows are found by one offset"
    assert text(strategy_of(take, {"d": over(4)}, MESH)) == ["[-, tp]", "[-]", "[-, tp]"]


def test_merged_dimensions_split_at_any_of_their_factors():
    merged = bind("(a b) -> a b", [(12,)], [(4, 3)])
    assert text(strategy_of(merged, {"a": over(4)}, MESH)) == ["[tp]", "[tp, -]"]
    assert text(strategy_of(merged, {"a": over(4)}, Mesh(tp=3))) == ["[tp:12~3]", "[tp, -]"]
    # a minor factor makes one segment for each value of the major one
    assert text(strategy_of(bind("(a b) -> a b", [(12,)], [(3, 4)]), {"b": over(4)}, MESH)) == ["[tp:4|4|4]", "[-, tp]"]


def test_a_concatenation_must_be_split_in_all_its_pieces():
    assert text(strategy_of(QKV, {"h": over(4)}, MESH)) == ["[-, tp:8|4|4, -]", "[-, tp, -]"]
    half = bind("[a b] -> a, b", [(6,)], [(2,), (4,)])
    assert strategy_of(half, {"a": over(2)}, MESH) is None
    assert complete(half, {"a": over(2)}, MESH) == {"a": over(2), "b": over(4)}
    assert text(strategy_of(half, complete(half, {"a": over(2)}, MESH), MESH)) == ["[tp:2|4]", "[tp]", "[tp]"]


def test_splits_are_found_from_a_sharding():
    def back(rule, at, sharding, mesh=MESH):
        return splits_from(rule.inputs[at], Sharding.parse(sharding, shape[at]), rule, mesh)

    shape = [(4, 6), (6, 8)]
    assert back(MATMUL, 1, "[-, tp]") == {"n": over(8)}
    assert back(MATMUL, 1, "[-, tp:6|2]") == {"n": over(6, 2)}
    shape = [(5, 16, 4)]
    assert back(QKV, 0, "[-, tp:8|4|4, -]") == {"h": over(4)}
    assert back(QKV, 0, "[-, tp, -]") is None, "the pieces of a concatenation are no part of an even split"
    assert back(QKV, 0, "[-, tp:8|8, -]") is None
    merged = bind("(a b) -> a b", [(12,)], [(3, 4)])
    shape = [(12,)]
    assert back(merged, 0, "[tp:4|4|4]") == {"b": over(4)}
    assert back(merged, 0, "[tp]", Mesh(tp=3)) == {"a": over(3)}
    assert back(merged, 0, "[tp]") is None, "6 is no multiple of 4"
    assert back(merged, 0, "[tp:12~4]") == {"a": over(3)}


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.sampled_from([2, 3, 4]), st.sampled_from("abc"))
def test_a_strategy_is_found_again_from_each_of_its_shardings(a, b, c, workers, factor):
    """Splitting one factor of ``(a b c)`` and reading the merged dimension back gives the same shardings."""
    rule = bind("(a b c) -> a b c", [(a * b * c,)], [(a, b, c)])
    mesh = Mesh(tp=workers)
    size = rule.sizes[factor]
    if size == 1:
        return
    strategy = strategy_of(rule, {factor: over(size).normalized(mesh)}, mesh)
    found = splits_from(rule.inputs[0], strategy.inputs[0], rule, mesh)
    assert found is not None
    assert strategy_of(rule, found, mesh).inputs == strategy.inputs


def test_partial_sums_pass_through_what_is_linear():
    strategy = partial_strategy(MATMUL, (0,), ("tp",), MESH)
    assert text(strategy) == ["[-, -] sum@tp", "[-, -]", "[-, -] sum@tp"]
    assert str(strategy) == "partial sums in, partial sum out"


def test_replicated_is_a_strategy_too():
    strategy = replicate(MATMUL)
    assert str(strategy) == "replicate"
    assert all(s.is_replicated for s in (*strategy.inputs, *strategy.outputs))


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_units_keep_heads_together(workers):
    """9 heads of 4: a worker holds whole heads."""
    rule = bind("t (h d) -> t h d", [(2, 36)], [(2, 9, 4)])
    mesh = Mesh(tp=workers)
    strategy = strategy_of(rule, {"h": over(9).normalized(mesh)}, mesh)
    assert strategy.inputs[0].local_shape((2, 36), mesh)[1] == 4 * -(-9 // workers)
    assert splits_from(rule.inputs[0], strategy.inputs[0], rule, mesh) == {"h": over(9).normalized(mesh)}
