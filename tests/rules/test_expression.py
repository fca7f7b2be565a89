"""Rule expressions: what they parse to, the factor sizes that follow, and how a bad one is refused."""

import pytest

from spmd.errors import ShardingError
from spmd.rules.expression import bind


def test_a_letter_is_a_factor_and_its_size_follows_from_the_shapes():
    rule = bind("m k, k n -> m n", [(2, 3), (3, 5)], [(2, 5)])
    assert rule.inputs == (((("m",),), (("k",),)), ((("k",),), (("n",),)))
    assert rule.outputs == (((("m",),), (("n",),)),)
    assert rule.sizes == {"m": 2, "k": 3, "n": 5}
    assert rule.factors == ["m", "n", "k"]
    assert rule.reduced == {"k"}


def test_brackets_merge_and_concatenate():
    rule = bind("t [(h r) h h] -> t (h r)", [(7, 12)], [(7, 6)], {"h": 3, "r": 2})
    assert rule.inputs == (((("t",),), (("h", "r"), ("h",), ("h",))),)
    assert rule.outputs == (((("t",),), (("h", "r"),)),)
    assert rule.sizes == {"h": 3, "r": 2, "t": 7}


@pytest.mark.parametrize("one", ["1", "()"])
def test_a_dimension_of_size_one_holds_no_factor(one):
    assert bind(f"m {one} -> m", [(4, 1)], [(4,)]).inputs == (((("m",),), ((),)),)


def test_leading_dimensions_are_aligned_at_the_end_and_broadcast():
    rule = bind("..., ... -> ...", [(4, 1, 6), (5, 1)], [(4, 5, 6)])
    assert rule.outputs == (((("_0",),), (("_1",),), (("_2",),)),)
    assert rule.inputs == (((("_0",),), ((),), (("_2",),)), ((("_1",),), ((),)))
    assert rule.sizes == {"_0": 4, "_1": 5, "_2": 6}


def test_an_ellipsis_may_stand_for_nothing():
    assert bind("...m k -> ...m", [(4, 6)], [(4,)]).sizes == {"m": 4, "k": 6}
    assert bind("... -> ...", [()], [()]).outputs == ((),)


def test_a_size_that_one_dimension_hides_is_found_in_another():
    rule = bind("(a b), b -> a b", [(12,), (3,)], [(4, 3)])
    assert rule.sizes == {"a": 4, "b": 3}
    assert bind("(a b) -> a", [(12,)], [(4,)]).sizes == {"a": 4, "b": 3}


def test_symbolic_sizes_stay_unknown():
    rule = bind("n d -> n d", [(None, 8)], [(None, 8)])
    assert rule.sizes == {"n": None, "d": 8}


def test_a_rule_may_have_no_inputs():
    rule = bind("-> m n", [], [(2, 3)])
    assert rule.inputs == () and rule.sizes == {"m": 2, "n": 3}


def test_pieces_of_a_concatenation_split_only_together():
    rule = bind("m [p0 p1] -> m p0, m p1", [(4, 8)], [(4, 2), (4, 6)])
    assert rule.joint() == [("m",), ("p0", "p1")]
    # of a merged piece, the major factor whose size is not 1
    rule = bind("[(h r) h] -> (h r)", [(9,)], [(6,)], {"h": 3, "r": 2})
    assert rule.joint() == [("h",), ("r",)]
    rule = bind("[(h r) k] -> (h r), k", [(9,)], [(6,), (3,)], {"h": 1, "r": 6})
    assert rule.joint() == [("h",), ("r", "k")]


def test_details_are_kept_and_whole_is_split_into_words():
    rule = bind("a b -> a b", [(2, 3)], [(2, 3)], whole="a b", zero="all", linear=((0,),))
    assert rule.whole == {"a", "b"} and rule.zero == "all" and rule.linear == ((0,),)


@pytest.mark.parametrize(
    ("text", "inputs", "outputs", "message"),
    [
        ("m k", [(2, 3)], [], r"rule 'm k': it has no '->'\. Write inputs"),
        ("m, n -> m", [(2,)], [(2,)], r"it has 2 inputs, the call has 1"),
        ("m -> m, m", [(2,)], [(2,)], r"it has 2 outputs, the call has 1"),
        ("m n -> m", [(2,)], [(2,)], r"a tensor of 1 dimensions stands where the rule has 2"),
        ("m -> m", [(2,)], [(3,)], r"factor 'm' has the sizes 2 and 3"),
        ("m + n -> m", [(2,)], [(2,)], r"cannot read '\+ n'\. Use names"),
        ("(m n -> m", [(2,)], [(2,)], r"a bracket of '\(m n' is not closed"),
        ("[m n -> m", [(2,)], [(2,)], r"a bracket of '\[m n' is not closed"),
        ("m ... -> m", [(2,)], [(2,)], r"'\.\.\.' stands in the middle"),
    ],
)
def test_what_cannot_be_read_is_refused(text, inputs, outputs, message):
    with pytest.raises(ShardingError, match=message):
        bind(text, inputs, outputs)


def test_a_piece_that_holds_nothing_does_not_split_with_its_neighbours():
    """Of nothing and three rows, only the three rows are split; the nothing stays whole."""
    rule = bind("p m, q m -> [p q] m", [(0, 5), (3, 5)], [(3, 5)])
    assert rule.outputs == (((("q",),), (("m",),)),)
    assert rule.whole == {"p"}
    assert rule.joint() == [("q",), ("m",), ("p",)]
