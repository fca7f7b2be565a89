import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd.errors import ShardingError
from spmd.placement import layout
from spmd.placement.mesh import Mesh
from spmd.placement.sharding import Segment, Sharding, Split
from tests.placement.test_sharding import MESH, shardings

DTYPES = ["float32", "int8", "bool", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


def filled(shape: tuple[int, ...], dtype: object = "float32") -> np.ndarray:
    """Values that differ from each other and from the zeros of padding, as far as the dtype can."""
    return (1 + np.arange(np.prod(shape, dtype=int)) % 100).reshape(shape).astype(dtype)


@given(shardings(), st.sampled_from(DTYPES))
def test_cut_and_join_give_the_array_back(case: tuple[Sharding, tuple[int, ...]], dtype: object) -> None:
    sharding, shape = case
    array = filled(shape, dtype)
    shards = [layout.cut(array, sharding, MESH, rank) for rank in range(MESH.size)]
    for shard in shards:
        assert shard.shape == sharding.local_shape(shape, MESH)
        assert shard.dtype == array.dtype
        assert shard.flags.c_contiguous
    np.testing.assert_array_equal(layout.join(shards, sharding, MESH, shape), array)


@given(shardings())
def test_padding_is_zero_and_nothing_is_held_twice(case: tuple[Sharding, tuple[int, ...]]) -> None:
    sharding, shape = Sharding(case[0].dims), case[1]
    used = set(sharding.axes())
    firsts = [r for r in range(MESH.size) if all(i == 0 for a, i in MESH.coordinates(r).items() if a not in used)]
    shards = [layout.cut(filled(shape, "float64"), sharding, MESH, rank) for rank in firsts]
    held = np.concatenate([s.ravel() for s in shards])
    assert np.count_nonzero(held) == np.prod(shape, dtype=int)
    assert held.sum() == filled(shape, "float64").sum()


def test_segments_and_units() -> None:
    mesh = Mesh(tp=2)
    qkv = Sharding((Split(("tp",), (Segment(4), Segment(2), Segment(2))),))
    assert layout.cut(np.arange(8), qkv, mesh, 0).tolist() == [0, 1, 4, 6]
    assert layout.cut(np.arange(8), qkv, mesh, 1).tolist() == [2, 3, 5, 7]
    heads = Sharding((Split(("tp",), (Segment(6, 2),)),))  # three heads of two
    assert layout.cut(np.arange(6), heads, mesh, 0).tolist() == [0, 1, 2, 3]
    assert layout.cut(np.arange(6), heads, mesh, 1).tolist() == [4, 5, 0, 0]
    small = Sharding((Split(("tp",), (Segment(1),)),))
    assert [layout.cut(np.ones(1), small, Mesh(tp=3), r).tolist() for r in range(3)] == [[1.0], [0.0], [0.0]]
    assert layout.pieces(Split(("tp",), (Segment(5), Segment(3))), mesh, 1) == [(3, 0, 2, 3), (7, 3, 1, 2)]


def test_placements_are_the_same_where_each_worker_has_the_same() -> None:
    def rows(unit: int) -> Sharding:
        return Sharding((Split(("tp",), (Segment(9, unit),)), None))

    assert layout.same_placement(rows(1), rows(3), Mesh(tp=4)), "3, 3, 3 and 0 rows either way"
    assert not layout.same_placement(rows(1), rows(3), Mesh(tp=2)), "5 and 4, or 6 and 3"
    assert not layout.same_placement(rows(1), Sharding((None, None)), Mesh(tp=4))


def test_two_axes_of_one_dimension_are_major_first() -> None:
    mesh = Mesh(dp=2, tp=2)
    major = Sharding((Split(("dp", "tp"), (Segment(4),)),))
    minor = Sharding((Split(("tp", "dp"), (Segment(4),)),))
    assert [int(layout.cut(np.arange(4), major, mesh, r)[0]) for r in range(4)] == [0, 1, 2, 3]
    assert [int(layout.cut(np.arange(4), minor, mesh, r)[0]) for r in range(4)] == [0, 2, 1, 3]


@pytest.mark.parametrize(("kind", "expected"), [("sum", 6.0), ("prod", 6.0), ("max", 3.0), ("min", 1.0)])
def test_join_reduces_partials(kind: str, expected: float) -> None:
    mesh = Mesh(dp=2, tp=3)
    shards = [np.array([1.0 + mesh.coordinates(r)["tp"]]) for r in range(6)]  # equal along dp
    assert layout.join(shards, Sharding((None,), (("tp", kind),)), mesh, (1,)).tolist() == [expected]


def test_partials_over_two_axes() -> None:
    mesh = Mesh(dp=2, tp=3)
    shards = [np.array([float(r)]) for r in range(6)]
    assert layout.join(shards, Sharding((None,), (("tp", "sum"), ("dp", "sum"))), mesh, (1,)).tolist() == [15.0]


def test_partials_of_several_kinds() -> None:
    mesh = Mesh(dp=2, tp=3)
    shards = [np.array([float(r + 1)]) for r in range(6)]
    both = Sharding((None,), (("tp", "sum"), ("dp", "max")))
    assert layout.join(shards, both, mesh, (1,)).tolist() == [15.0]  # max(1 + 2 + 3, 4 + 5 + 6)
    both = Sharding((None,), (("dp", "max"), ("tp", "sum")))
    assert layout.join(shards, both, mesh, (1,)).tolist() == [15.0]  # max(1, 4) + max(2, 5) + max(3, 6)
    both = Sharding((None,), (("dp", "sum"), ("tp", "prod")))
    assert layout.join(shards, both, mesh, (1,)).tolist() == [5.0 * 7.0 * 9.0]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_partial_sums_of_narrow_floats_are_rounded_once(dtype: object) -> None:
    shards = [np.full(2, value, dtype) for value in (2048.0, 1.0, 1.0, 14.0)]
    whole = layout.join(shards, Sharding((None,), (("tp", "sum"),)), Mesh(tp=4), (2,))
    assert whole.dtype == dtype
    assert whole.tolist() == [2064.0, 2064.0]


@st.composite
def unknown(draw: st.DrawFn, even: bool = False) -> tuple[Split, int]:
    """A split of a symbolic size over three axes of `GRID` in some order, by blocks or by a pattern; and a size that it fits."""
    axes = tuple(draw(st.permutations(["a", "b", "c"])))
    sizes = st.integers(1, 3).map(lambda n: 8 * n) if even else st.integers(1, 20)
    segments = tuple(draw(st.lists(st.builds(Segment, sizes, st.just(1) if even else st.integers(1, 3)), min_size=1, max_size=3)))
    repeated = draw(st.booleans())
    split = Split(axes, segments, not repeated, repeated)
    return split, split.size * draw(st.integers(0, 3))


GRID = Mesh(a=2, b=2, c=2)


def held(size: int, split: Split | None, rank: int) -> np.ndarray:
    """The elements that a worker holds, numbered from 1."""
    whole = np.arange(1, 1 + size)
    return whole if split is None else layout.cut(whole, Sharding((split,)), GRID, rank)


@given(unknown())
def test_symbolic_sizes_are_cut_and_joined(case: tuple[Split, int]) -> None:
    split, size = case
    shards = [held(size, split, rank) for rank in range(GRID.size)]
    np.testing.assert_array_equal(layout.join(shards, Sharding((split,)), GRID, (size,)), np.arange(1, 1 + size))
    for shard in shards:
        assert shard.size == split.held_size(size, GRID)
        assert split.whole_size(shard.size, GRID) == size
    again = split.normalized(GRID)
    assert Sharding.parse(str(Sharding((again,))), (-1,)).dims == (again,)
    if size % again.size == 0:
        assert [held(size, again, rank).tolist() for rank in range(GRID.size)] == [s.tolist() for s in shards]


@given(unknown(), st.integers(0, 3))
def test_major_axes_of_a_symbolic_size_hold_what_minor_ones_split(case: tuple[Split, int], count: int) -> None:
    split, size = case
    outer = split.outer(count, GRID)
    inner = split.inner(count, GRID)
    for rank in range(GRID.size):
        shard = held(size, outer, rank)
        np.testing.assert_array_equal(layout.cut(shard, Sharding((inner,)), GRID, rank), held(size, split, rank))


@given(unknown(even=True), st.integers(0, 2))
def test_minor_axes_of_an_even_symbolic_size_hold_what_major_ones_split(case: tuple[Split, int], count: int) -> None:
    split, size = case
    assert split.is_even(GRID)
    minor, outermost = split.minor(count, GRID), split.outermost(count, GRID)
    for rank in range(GRID.size):
        shard = held(size, minor, rank)
        found = layout.cut(shard, Sharding((outermost,)), GRID, rank) if count else shard
        np.testing.assert_array_equal(found, held(size, split, rank))


SPLIT = Sharding((Split(("tp",), (Segment(4),)),))
ERRORS = [
    (
        lambda: layout.cut(np.zeros(5), SPLIT, Mesh(tp=2), 0),
        "Sharding [tp]: dimension 0 has size 5, and the segments add up to 4.",
    ),
    (
        lambda: layout.cut(np.zeros((4, 1)), SPLIT, Mesh(tp=2), 0),
        "Sharding [tp]: a tensor of shape (4, 1) has 2 dimensions, not 1.",
    ),
    (lambda: layout.cut(np.zeros(4), SPLIT, Mesh(dp=2), 0), "Mesh(dp=2): there is no mesh axis 'tp'. Its axes are 'dp'."),
    (lambda: layout.cut(np.zeros(4), SPLIT, Mesh(tp=2), 2), "Mesh(tp=2): there is no worker 2. Workers are 0 to 1."),
    (
        lambda: layout.join([np.zeros(2)], SPLIT, Mesh(tp=2), (4,)),
        "join: 1 shards for the 2 workers of Mesh(tp=2).",
    ),
    (
        lambda: layout.join([np.zeros(2), np.zeros(3)], SPLIT, Mesh(tp=2), (4,)),
        "join: worker 1 has a shard of shape (3,), and [tp] of (4,) makes (2,).",
    ),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors(case: int) -> None:
    wrong, text = ERRORS[case]
    with pytest.raises(ShardingError) as error:
        wrong()
    assert str(error.value) == text
