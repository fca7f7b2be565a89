"""Which collectives share a call."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from spmd.realize.bundles import Waiting, bundles


def waiting(*times, alike=(), moving=0.0, most=1.0):
    return [Waiting(place, ready, needed, alike, moving, most) for place, (ready, needed) in enumerate(times)]


def places(found):
    return [[w.place for w in bundle] for bundle in found]


def test_those_ready_when_the_first_is_needed_go_together():
    assert places(bundles(waiting((0, 9), (2, 5), (5, 5), (6, 9), (1, 4)))) == [[4, 1, 0]]
    assert places(bundles(waiting((0, 3), (4, 9), (5, 8)))) == [[2, 1]]


def test_what_differs_and_what_is_full_stays_apart():
    assert bundles(waiting((0, 9), alike=("a",)) + waiting((0, 9), alike=("b",))) == []
    assert places(bundles(waiting(*[(0, 9)] * 5, moving=0.4))) == [[0, 1], [2, 3]]
    assert bundles(waiting((0, 9), (0, 9), moving=2.0)) == []


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=12))
def test_no_cover_takes_fewer_calls(intervals):
    found = waiting(*[(ready, ready + length) for ready, length in intervals])
    together = bundles(found)
    for bundle in together:
        assert max(w.ready for w in bundle) <= min(w.needed for w in bundle) == bundle[0].needed
    calls = len(found) - sum(len(bundle) - 1 for bundle in together)
    # as many calls as there are intervals of which no two meet (a lower bound for any cover, and there is such a set)
    apart, last = 0, -1
    for w in sorted(found, key=lambda w: w.needed):
        if w.ready > last:
            apart, last = apart + 1, w.needed
    assert calls == apart
    assert all(a[0].needed <= b[0].needed for a, b in pairwise(together))


def test_what_is_too_large_parts_nothing():
    """Small, large, small, all needed at the end: the small ones go together wherever the large one stands."""
    small = Waiting(0, 0, 9, (), 0.1, 1.0)
    for order in ((5.0, 0.1, 0.1), (0.1, 5.0, 0.1), (0.1, 0.1, 5.0)):
        found = [replace(small, place=place, moving=moving) for place, moving in enumerate(order)]
        assert [sorted(w.moving for w in bundle) for bundle in bundles(found)] == [[0.1, 0.1]]
    halves = [replace(small, place=place, moving=moving) for place, moving in enumerate((0.25, 0.75, 0.375, 0.625))]
    assert [sum(w.moving for w in bundle) for bundle in bundles(halves)] == [1.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.sampled_from([0.0, 5.0])), max_size=12))
def test_the_small_are_covered_as_if_alone(intervals):
    found = [Waiting(place, ready, ready + length, (), moving, 1.0) for place, (ready, length, moving) in enumerate(intervals)]
    small = [w for w in found if not w.moving]
    assert _calls(small, [[w for w in bundle if not w.moving] for bundle in bundles(found)]) == _calls(small, bundles(small))


def _calls(waiting, together):
    return len(waiting) - sum(len(bundle) - 1 for bundle in together if bundle)
