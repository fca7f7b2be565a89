import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd.errors import ShardingError
from spmd.placement.length import Length
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import PARTIAL_KINDS, Segment, Sharding, Split

MESH = Mesh(dp=2, tp=3)


@st.composite
def shardings(draw: st.DrawFn) -> tuple[Sharding, tuple[int, ...]]:
    """A sharding over axes of `MESH`, each used once, and the shape of a tensor that has it."""
    free = draw(st.permutations(["dp", "tp"]))
    dims: list[Split | None] = []
    shape: list[int] = []
    for _ in range(draw(st.integers(0, 4))):
        taken = [free.pop() for _ in range(draw(st.integers(0, len(free))))]
        segments = draw(st.lists(st.builds(Segment, st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=3))
        dims.append(Split(tuple(taken), tuple(segments)) if taken else None)
        shape.append(sum(s.size for s in segments))
    partial = tuple((axis, draw(st.sampled_from(PARTIAL_KINDS))) for axis in free if draw(st.booleans()))
    return Sharding(tuple(dims), partial), tuple(shape)


@given(shardings())
def test_text_reads_back(case: tuple[Sharding, tuple[int, ...]]) -> None:
    sharding, shape = case
    assert Sharding.parse(str(sharding), shape) == sharding
    assert Sharding.parse(str(sharding.normalized(MESH)), shape) == sharding.normalized(MESH)


@given(shardings())
def test_normalized_is_the_same_placement(case: tuple[Sharding, tuple[int, ...]]) -> None:
    sharding, shape = case
    normal = sharding.normalized(MESH)
    assert normal.normalized(MESH) == normal
    assert normal.local_shape(shape, MESH) == sharding.local_shape(shape, MESH)
    assert normal.is_padded(MESH) == sharding.is_padded(MESH)
    assert normal.axes() == sharding.axes()


def test_texts() -> None:
    qkv = Split(("tp",), (Segment(8192), Segment(1024), Segment(1024)))
    assert str(Sharding((qkv, None))) == "[tp:8192|1024|1024, -]"
    assert str(Sharding((None, None), (("tp", "sum"),))) == "[-, -] sum@tp"
    assert str(Sharding((Split(("dp", "tp"), (Segment(30, 4),)),))) == "[dp+tp:30~4]"
    assert str(Sharding.replicated(0)) == "[]"
    assert Sharding.parse("[]", ()) == Sharding.replicated(0)
    assert Sharding.parse("[-, tp] sum@dp max@ep", (2, 6)).partial == (("dp", "sum"), ("ep", "max"))


def test_sizes() -> None:
    assert Segment(6).local(4) == 2
    assert Segment(30, 4).local(3) == 12  # 8 units for 3 workers: 3 each
    split = Split(("tp",), (Segment(6), Segment(4)))
    assert (split.size, split.local_size(MESH), split.is_padded(MESH)) == (10, 4, True)
    assert not Split(("tp",), (Segment(6), Segment(3))).is_padded(MESH)
    sharding = Sharding((Split(("tp",), (Segment(7),)), None))
    assert sharding.local_shape((7, 2), MESH) == (3, 2)
    assert not sharding.is_replicated
    assert not Sharding((None,), (("tp", "sum"),)).is_replicated
    assert Sharding.replicated(2).is_replicated
    assert Sharding((Split(("tp",), (Segment(7),)), None), (("dp", "max"),)).axes() == ("tp", "dp")


@pytest.mark.parametrize("text", ["[tp:~1]", "[tp:~8]", "[tp:~s]", "[tp:~8.s.t]", "[tp:*8*s]", "[dp:*4*4.s]"])
def test_lengths_read_back(text: str) -> None:
    sharding = Sharding.parse(text, (-1,))
    assert str(sharding) == text
    assert sharding.normalized(MESH) == sharding
    assert pickle.loads(pickle.dumps(sharding)) == sharding
    assert str(Sharding.parse(str(sharding.told({"s": 3, "t": 2})), (-1,))) == str(sharding.told({"s": 3, "t": 2}))


def test_what_a_length_makes_of_a_size() -> None:
    uneven = Split.in_units(("tp",), Length(2, ("s",)))
    assert uneven.is_padded(MESH)
    assert uneven.told({"s": 3}) == Split.in_units(("tp",), Length(6))
    assert uneven.told({"s": 3}).at(30) == Split(("tp",), (Segment(30, 6),))  # 5 units for 3 workers: 2 each
    assert uneven.held_size(30, MESH, unit=6) == 12
    (pattern,) = Sharding.parse("[tp:*3*s]", (-1,)).told({"s": 6}).dims
    assert pattern is not None
    assert pattern.at(18) == Split(("tp",), (Segment(6),) * 3)
    with pytest.raises(ShardingError, match=r"the size 30 does not tell the length 2\.s in it\. Keep what has it whole"):
        uneven.at(30)


WRONG = "units and patterns of blocks have a length, and nothing else has"


@pytest.mark.parametrize(
    ("split", "why"),
    [
        (Split(("dp", "tp"), (Segment(1),), uneven=True, length=Length()), "by a length a size is dealt out over one axis, in one piece"),
        (Split(("tp",), (Segment(1),), uneven=True), WRONG),
        (Split(("tp",), (Segment(8),), length=Length()), WRONG),
        (Split(("tp",), (Segment(8),), symbolic=True, repeated=True), WRONG),
        (Split.in_units(("tp",), Length(8, ("s",))), ""),
    ],
)
def test_what_no_split_by_a_length_can_have(split: Split, why: str) -> None:
    assert split.wrong == why


UNDIVIDED = Sharding((Split(("tp",), (Segment(7),)), None))
ERRORS = [
    (lambda: UNDIVIDED.local_shape((7,), MESH), "Sharding [tp, -]: a tensor of shape (7,) has 1 dimensions, not 2."),
    (
        lambda: UNDIVIDED.local_shape((8, 2), MESH),
        "Sharding [tp, -]: dimension 0 has size 8, and the segments add up to 7.",
    ),
    (
        lambda: Sharding.parse("[tp", (2,)),
        "Sharding.parse: '[tp' is no sharding of 1 dimensions. It reads like '[tp, -] sum@tp'.",
    ),
    (
        lambda: Sharding.parse("[tp]", (2, 2)),
        "Sharding.parse: '[tp]' is no sharding of 2 dimensions. It reads like '[tp, -] sum@tp'.",
    ),
    (
        lambda: Sharding.parse("[tp:4|x]", (8,)),
        "Sharding.parse: '[tp:4|x]' is no sharding of 1 dimensions. It reads like '[tp, -] sum@tp'.",
    ),
    (
        lambda: Sharding.parse("[-] mean@tp", (8,)),
        "Sharding.parse: '[-] mean@tp' is no sharding of 1 dimensions. It reads like '[tp, -] sum@tp'.",
    ),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors(case: int) -> None:
    wrong, text = ERRORS[case]
    with pytest.raises(ShardingError) as error:
        wrong()
    assert str(error.value) == text
    assert isinstance(error.value, ValueError)


def test_what_is_pickled_is_found_in_another_process():
    key = "(Mesh(dp=2, tp=2, hosts=2), Sharding((Split(('tp',), (Segment(8),)), None), (('dp', 'sum'),)))"
    look = f"import pickle, sys; from spmd.placement.sharding import *; print(pickle.load(sys.stdin.buffer)[{key}])"
    text = pickle.dumps({eval(key): "found"})
    seed = {**os.environ, "PYTHONHASHSEED": "1"}  # of the hashes of texts, which are others here
    assert subprocess.run([sys.executable, "-c", look], input=text, capture_output=True, env=seed, check=True).stdout == b"found\n"
