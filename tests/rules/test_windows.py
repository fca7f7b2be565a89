"""The geometry of halos against brute force."""

import itertools

import pytest

from spmd import Mesh
from spmd.placement.sharding import Segment, Split
from spmd.rules.windows import Halo, Window


def split(size):
    return Split(("tp",), (Segment(size),))


def received(halo, worker):
    """The positions that a worker has after the exchange, in order; None where nothing is received."""
    rows = []
    for hop in halo.hops:
        sources = [s for s, t in hop.pairs if t == worker]
        assert len(sources) <= 1 and all(s == worker - hop.distance for s in sources)
        first = (worker - hop.distance) * halo.held + (halo.held - hop.rows if hop.distance > 0 else 0)
        rows.append((hop.distance, [first + i if sources else None for i in range(hop.rows)]))
    own = [worker * halo.held + i for i in range(halo.held)]
    return [r for d, part in rows if d > 0 for r in part] + own + [r for d, part in rows if d < 0 for r in part]


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_row_that_a_window_reads_is_there(workers, transposed):
    mesh = Mesh(tp=workers)
    for size, kernel, stride, dilation, before in itertools.product((3, 7, 12), (1, 2, 5), (1, 2, 3), (1, 2), (0, 2)):
        extent = (kernel - 1) * dilation + 1
        outs = (size - 1) * stride + extent - before if transposed else (size + 2 * before - extent) // stride + 1
        if outs < 1:
            continue
        window = Window("i", "o", "n", size, kernel, stride, dilation, before, transposed=transposed)
        splits = {"i": split(size), "o": split(outs)}
        halo, count = window.halo(splits, mesh), window.windows(splits, mesh)
        for worker in range(workers):
            rows = received(halo, worker)
            base = worker * halo.held - halo.below
            for place in range(worker * count, min((worker + 1) * count, outs)):
                for k in range(kernel):
                    row, rest = divmod(place + before - k * dilation, stride) if transposed else (place * stride - before + k * dilation, 0)
                    if rest or not 0 <= row < size:
                        continue
                    assert rows[row - base] == row
                    assert 0 <= row - halo.starts[worker] < halo.length


def test_a_halo_as_wide_as_several_workers_comes_in_hops():
    halo = Halo(8, 2, (-3, -1, 1, 3), 8)
    assert [(h.distance, h.rows) for h in halo.hops] == [(2, 1), (1, 2), (-1, 2), (-2, 1)]
    assert halo.hops[0].pairs == ((0, 2), (1, 3))


def test_nothing_is_sent_where_windows_tile_the_rows():
    window = Window("i", "o", "n", 8, 2, 2)
    assert window({"i": split(8), "o": split(4)}, Mesh(tp=2)) == ()
