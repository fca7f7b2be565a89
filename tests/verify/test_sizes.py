"""Smaller sizes do what sizes do, and different ones stay different."""

from spmd.verify.sizes import Sizes


def test_products_sums_and_shares_stay():
    sizes = Sizes()
    heads, dim, hidden, local = (sizes.at(name, n) for name, n in (("heads", 128), ("dim", 96), ("hidden", 12288), ("local", 1536)))
    total = sizes.at("total", 12416)
    sizes.product([hidden], [heads, dim])
    sizes.product([hidden], [local], 8)
    sizes.total(total, [hidden, heads])
    of = sizes.solved()
    assert of is not None
    assert of[hidden] == of[heads] * of[dim] == 8 * of[local]
    assert of[total] == of[hidden] + of[heads]
    assert len({of[n] for n in (heads, dim, hidden, local, total)}) == 5
    assert of[hidden] < 1000


def test_small_sizes_stay_and_equal_places_are_one():
    sizes = Sizes()
    three, a, b = sizes.at("three", 3), sizes.at("a", 64), sizes.at("b", 64)
    sizes.same([a, b, three])
    of = sizes.solved()
    assert of is not None
    assert of[three] == 3
    assert sizes.root(a) == sizes.root(b) != sizes.root(three)


def test_what_has_no_smaller_solution_is_kept():
    sizes = Sizes()
    n = sizes.at("n", 4099)
    sizes.fixed(n)
    assert sizes.solved() is None or sizes.solved() == {n: 4099}
