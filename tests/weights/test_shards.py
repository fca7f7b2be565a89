"""Shards that are read out of files are, to the bit, those that are cut out of arrays."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd import Mesh, P, Sharding
from spmd.placement.layout import Array, cut
from spmd.placement.sharding import Segment, Split
from spmd.weights import gather, shards
from spmd.weights.gather import Box, File, strides_of
from spmd.weights.shards import Cut
from tests.weights.files import random_array

MESHES = [Mesh(tp=1), Mesh(tp=2), Mesh(tp=3), Mesh(tp=8), Mesh(dp=2, tp=4), Mesh(dp=3, tp=2)]
DTYPES = ["float32", "bfloat16", "uint8", "float8_e4m3fn", "int64", "bool"]
ENOUGH = 1 << 40


@st.composite
def splits(draw: st.DrawFn, axes: tuple[str, ...]) -> Split:
    """Uneven ones, in segments, in units (heads, groups of quantized weights), in blocks."""
    segments = draw(st.lists(st.builds(Segment, st.integers(0, 13), st.integers(1, 4)), min_size=1, max_size=4))
    return Split(axes, tuple(segments))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Mesh, tuple[int, ...], Sharding]:
    mesh = draw(st.sampled_from(MESHES))
    axes = [(name,) for name in mesh.axes]
    rank = draw(st.integers(0, 4))
    free = draw(st.permutations([*axes, *([tuple(mesh.axes)] if len(axes) > 1 else [])]))
    dims: list[Split | None] = [None] * rank
    used: set[str] = set()
    for dim, names in zip(draw(st.permutations(range(rank))), free, strict=False):
        if not used & set(names) and draw(st.booleans()):
            dims[dim] = draw(splits(names))
            used |= set(names)
    left = [name for name in mesh.axes if name not in used]
    partial = tuple((name, draw(st.sampled_from(["sum", "max", "prod"]))) for name in left if draw(st.integers(0, 4)) == 0)
    shape = tuple(draw(st.integers(0, 9)) if split is None else split.size for split in dims)
    return mesh, shape, Sharding(tuple(dims), partial)


@pytest.mark.hypothesis
@given(cases(), st.sampled_from(DTYPES), st.integers(1, 400), st.integers(1, 400), st.integers(0, 80))
def test_shards_of_files_are_those_of_arrays(
    case: tuple[Mesh, tuple[int, ...], Sharding], dtype: str, piece: int, sieve: int, gap: int
) -> None:
    mesh, shape, sharding = case
    array = random_array(shape, dtype)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "PIECE", piece)
        patch.setattr(gather, "SIEVE", max(sieve, array.itemsize))
        patch.setattr(gather, "GAP", gap)
        patch.setattr(shards, "GAP", gap)
        path = Path(folder) / "data"
        path.write_bytes(b"\xff" * 5 + array.tobytes())
        file = File.of(path)

        def read(box: Box, out: Array) -> None:
            file.reading("here", lambda at: gather.gather(at, 5, shape, box, out))

        for rank in range(mesh.size):
            found = Cut.of(shape, sharding, mesh, rank).array(array.dtype, read)
            expected = cut(array, sharding, mesh, rank)
            assert found.shape == expected.shape and found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes()


@pytest.mark.hypothesis
@given(cases(), st.integers(1, 400))
def test_pieces_follow_one_another_in_the_shard(case: tuple[Mesh, tuple[int, ...], Sharding], piece: int) -> None:
    mesh, shape, sharding = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "PIECE", piece)
        found = Cut.of(shape, sharding, mesh, mesh.size - 1)
        places = np.arange(np.prod(found.local, dtype=int)).reshape(found.local)
        parts = [places[(*(slice(*ends) for ends in box), ...)].reshape(-1) for box in found.boxes(4)]
        assert np.array_equal(np.concatenate(parts) if parts else places.reshape(-1), places.reshape(-1))
        assert all(part.size * 4 <= max(piece, 4) for part in parts)


def counted(shape: tuple[int, ...], spec: P, dtype: str = "float16", rank: int = 1) -> tuple[int, int, int]:
    """The bytes that are read for a shard, those that it has, and how many times is read."""
    mesh, taken = Mesh(tp=4), [0, 0]

    def read(begin: int, into: memoryview) -> None:
        taken[0] += len(into)
        taken[1] += 1

    cut_ = Cut.of(shape, spec.sharding(shape, mesh, "here"), mesh, rank)
    size = 0
    for box in cut_.boxes(2):
        out = np.empty([end - begin for begin, end in box], dtype)
        cut_.fill(box, out, lambda b, o: gather.gather(read, 0, shape, b, o))
        assert out.nbytes <= shards.PIECE
        size += out.nbytes
    return taken[0], size, taken[1]


def test_only_a_rank_s_own_bytes_are_read() -> None:
    assert counted((4096, 4096), P("tp", None)) == (8 << 20, 8 << 20, 1)
    assert counted((32, 1 << 18), P(None, "tp")) == (4 << 20, 4 << 20, 32)  # half a megabyte lies between
    read, held, times = counted((4096, 4096), P(None, "tp"))
    assert held == 8 << 20 and read < 4 * held and times <= 16  # columns of 2 KB: rows are read, and most of them skipped
    read, held, times = counted((64, 3 * (1 << 17)), P(None, ("tp", 1 << 17, 1 << 17, 1 << 17)))
    assert read == held and times == 64 * 3


def test_strides() -> None:
    assert strides_of((2, 3, 4), 2) == (24, 8, 2)
    assert strides_of((), 2) == ()
