"""Repetitions in sequences."""

import pytest

from spmd.explain.repeats import Repeat, repeats


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ("", []),
        ("abcdef", []),
        ("xabcabcabcy", [Repeat(1, 3, 3)]),
        ("aaaa", []),  # what folding hides must be worth it
        ("aaaaaa", [Repeat(0, 1, 6)]),
        ("abababab", [Repeat(0, 2, 4)]),  # the shortest period
        ("xabcdabcdab", [Repeat(1, 4, 2)]),  # a part at the end stays
        ("ababab-cdecdecde", [Repeat(0, 2, 3), Repeat(7, 3, 3)]),
        ("abcdeabcdeabcdexxxxxx", [Repeat(0, 5, 3), Repeat(15, 1, 6)]),
    ],
)
def test_repeats(items, found):
    assert repeats(items) == found
    for r in found:
        part = items[r.start : r.start + r.period]
        assert items[r.start :].startswith(part * r.count)
