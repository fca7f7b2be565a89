"""What users write, and what it means for a tensor on a mesh."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd import Mesh, P, Sharding, ShardingError
from spmd.placement.spec import Constraint

MESH = Mesh(dp=2, tp=3)


def asked(spec, *shape):
    return str(spec.constraint(shape, MESH, "w"))


def test_closed_dimensions():
    assert asked(P("tp", None), 6, 2) == "[tp, -]"
    assert asked(P(None, None), 6, 2) == "[-, -]"
    assert asked(P(), *()) == "[]"
    assert asked(P((), None), 6, 2) == "[-, -]"
    assert asked(P(("dp", "tp")), 6) == "[dp+tp]"
    assert asked(P(("tp", 6, 3, 3)), 12) == "[tp:6|3|3]"
    assert asked(P("tp"), 7) == "[tp]", "uneven sizes are padded"


def test_open_dimensions():
    assert asked(P("tp", "?"), 6, 2) == "[tp, ?]"
    assert asked(P("?", None), 6, 2) == "[?, -]"
    assert asked(P(..., "tp"), None, 2, 6) == "[?, ?, tp]"
    assert asked(P("tp", ...), 6) == "[tp]"
    assert asked(P(...), 6, 2) == "[?, ?]"


def test_the_others_may_be_whole():
    assert asked(P("tp", others=None), 6, 2, 2) == "[tp, -, -]"
    assert asked(P(..., "tp", others=None), 6, 2, 6) == "[-, -, tp]"
    assert asked(P(others=None), 6, 2) == "[-, -]"
    assert asked(P(others=None), *()) == "[]"


def test_where_no_axis_is_left_nothing_is_open():
    assert str(P(..., "tp").constraint((4, 6), Mesh(tp=2), "w")) == "[-, tp]"
    assert str(P(..., "tp").constraint((4, 6), Mesh(dp=1, tp=2), "w")) == "[-, tp]"
    assert str(P(..., ("dp", "tp")).constraint((4, 6), MESH, "w")) == "[-, dp+tp]"
    assert str(P("tp", "?").constraint((4, 6), Mesh(tp=1), "w")) == "[tp, -]"


def test_what_is_never_gathered_says_so():
    assert asked(P("tp", "?", gather=False), 6, 2) == "[tp, ?] never gathered"


def test_the_one_sharding_of_a_closed_spec():
    assert P("tp", None).sharding((6, 2), MESH, "w") == Sharding.parse("[tp, -]", (6, 2))


def test_what_a_constraint_allows():
    constraint = P("tp", "?", None).constraint((6, 4, 4), MESH, "w")
    texts = ["[tp, -, -]", "[tp, dp, -]", "[-, dp, -]", "[dp, -, -]", "[tp, -, dp]", "[tp, -, -] sum@dp", "[tp:4|2, -, -]"]
    shardings = [Sharding.parse(text, (6, 4, 4)) for text in texts]
    assert [str(s) for s in constraint.among(shardings)] == ["[tp, -, -]", "[tp, dp, -]"]
    assert str(constraint.over(("tp",))) == "[tp, ?, -]"
    assert str(constraint.over(("dp",))) == "[-, ?, -]"
    assert [str(s) for s in Constraint.exactly(shardings[0]).among(shardings)] == ["[tp, -, -]"]


ENTRIES = st.sampled_from([None, "?", "tp", "dp", ("dp", "tp"), ("tp", 2, 4)])


@given(st.lists(ENTRIES, max_size=4), st.integers(-1, 4), st.sampled_from(["?", None]), st.booleans())
def test_a_spec_reads_back(entries, at, others, gather):
    if at >= 0:
        entries[at:at] = [...]
    spec = P(*entries, others=others, gather=gather)
    again = eval(repr(spec), {"P": P})
    assert again == spec and hash(again) == hash(spec)


def test_specs_are_values():
    assert P("tp", None) == P("tp", None) != P(None, "tp")
    assert len({P("tp", None), P("tp", None), P(..., "tp"), P(..., "tp", others=None), P(..., "tp", gather=False)}) == 4
    assert repr(P(..., ("tp", 2, 4), None)) == "P(..., ('tp', 2, 4), None)"
    assert repr(P("?", others=None, gather=False)) == "P('?', others=None, gather=False)"


ENTRY = "An entry is None, '?', '...', a mesh axis, or a tuple of axes and segment sizes."
RANK = "Give one entry a dimension, or '...'."
ERRORS = [
    (lambda: P(..., ...), "P(..., ...): '...' may stand only once."),
    (
        lambda: P("tp", others="dp"),
        "P('tp', others='dp'): the dimensions not named cannot be 'dp'. Write others=None for whole, or others='?'.",
    ),
    (
        lambda: P("tp").constraint((6, 2), MESH, "main(), parameter 'w'"),
        f"main(), parameter 'w': P('tp') has 1 entries, the value has 2 dimensions (6, 2). {RANK}",
    ),
    (
        lambda: P("tp", None).constraint((), MESH, "w"),
        f"w: P('tp', None) has 2 entries, the value has 0 dimensions. {RANK}",
    ),
    (
        lambda: P("tp", ..., None, None).constraint((6, None), MESH, "w"),
        f"w: P('tp', ..., None, None) has 3 entries, the value has 2 dimensions (6, ?). {RANK}",
    ),
    (
        lambda: P("tp", None, others=None).constraint((6,), MESH, "w"),
        f"w: P('tp', None, others=None) has 2 entries, the value has 1 dimensions (6). {RANK}",
    ),
    (
        lambda: P("tp", "tp").constraint((6, 6), MESH, "w"),
        "w: P('tp', 'tp') uses mesh axis 'tp' twice. An axis can split one dimension only.",
    ),
    (
        lambda: P("one", ("dp", "one")).constraint((6, 6), Mesh(dp=2, one=1), "w"),
        "w: P('one', ('dp', 'one')) uses mesh axis 'one' twice. An axis can split one dimension only.",
    ),
    (lambda: P(("tp", 1.5)).constraint((6,), MESH, "w"), f"w: P(('tp', 1.5)) has the entry ('tp', 1.5). {ENTRY}"),
    (lambda: P(("tp", -1, 7)).constraint((6,), MESH, "w"), f"w: P(('tp', -1, 7)) has the entry ('tp', -1, 7). {ENTRY}"),
    (lambda: P((3, 3)).constraint((6,), MESH, "w"), f"w: P((3, 3)) has the entry (3, 3). {ENTRY}"),
    (lambda: P(3).constraint((6,), MESH, "w"), f"w: P(3) has the entry 3. {ENTRY}"),
    (
        lambda: P("pp").constraint((6,), MESH, "w"),
        "w: P('pp') names mesh axis 'pp'. The axes of Mesh(dp=2, tp=3) are 'dp', 'tp'. Did you mean 'tp' or 'dp'?",
    ),
    (
        lambda: P(("dp", "tp")).constraint((None,), MESH, "w"),
        "w: P(('dp', 'tp')) splits dimension 0, whose size is symbolic, over several axes. "
        "Say with divisible={...} that 6 divides it, without segments; or use None there.",
    ),
    (
        lambda: P(("tp", 3, 4)).constraint((None,), MESH, "w", (8,)),
        "w: P(('tp', 3, 4)) splits dimension 0, whose size is symbolic and divisible by 8, by segments. "
        "Say with divisible={...} that 3 divides it, without segments; or use None there.",
    ),
    (
        lambda: P(("tp", 3, 4)).constraint((6,), MESH, "w"),
        "w: the segments (3, 4) of dimension 0 add up to 7, and its size is 6. "
        "Segments are the sizes of its pieces before they are split, as (8192, 1024, 1024) of 10240.",
    ),
    (
        lambda: P("tp", "?").sharding((6, 6), MESH, "w"),
        "w: P('tp', '?') leaves a choice, [tp, ?]. Name every dimension, or write others=None.",
    ),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors(case):
    wrong, text = ERRORS[case]
    with pytest.raises(ShardingError) as error:
        wrong()
    assert str(error.value) == text
