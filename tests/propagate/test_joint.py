"""The dual bound and branch and bound against an integer program and brute force, on problems too entangled for elimination."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spmd.propagate import joint
from spmd.propagate.dual import Dual
from spmd.propagate.joint import Joint
from spmd.propagate.search import Search
from spmd.propagate.solver import Limits
from tests.propagate.test_solver import brute_force, clique, cost, every_choice, problems, random_problem, shared_problems

INFINITE = 1 << 51
TINY = Limits(1, 1)


def integers(problem):
    """The problem with costs in thousandths."""
    sizes, factors = problem
    return sizes, [(scope, np.rint(table * 1000).astype(np.int64)) for scope, table in factors]


def solved(problem):
    sizes, factors = problem
    order = {v: v for v in sizes}
    return Joint(sizes, factors, order, INFINITE).run()


@pytest.fixture(scope="module", autouse=True)
def nothing_eliminated():
    """Messages and branches alone find the optimum."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint, "CORE", TINY)
        patch.setattr(joint, "_AFTER", TINY)
        yield


@given(problems().map(integers), st.integers(1, 9), st.booleans())
def test_bounds_are_never_above_the_optimum(problem, passes, closed):
    """Nor are those of single values above the best solution with them; whatever the number of passes."""
    sizes, factors = problem
    best = brute_force(sizes, factors)
    dual = Dual(list(sizes), sizes, factors, best + 1 if closed else INFINITE)
    dual.run(passes)
    bound, found = dual.look()
    assert bound <= best
    for v, regrets in found.items():
        for value, regret in enumerate(regrets):
            least = min(cost(factors, c) for c in every_choice(sizes, sorted(sizes)) if c[v] == value)
            assert bound + regret <= least or (closed and least > best)


@given(problems().map(integers))
def test_a_rounded_choice_has_a_value_for_each_variable(problem):
    sizes, factors = problem
    dual = Dual(list(sizes), sizes, factors, INFINITE)
    dual.run(2)
    choice = dual.rounded()
    assert choice.keys() == sizes.keys() and all(0 <= choice[v] < n for v, n in sizes.items())


@given(problems().map(integers))
def test_joint_finds_the_optimum(problem):
    sizes, factors = problem
    found = solved(problem)
    assert found.cost == found.bound == brute_force(sizes, factors) == cost(factors, found.choice)


@given(shared_problems())
def test_functions_that_disagree_are_one_problem(problem):
    sizes, groups = problem
    factors = [f for group in groups for f in group]
    solution = Search(sizes, groups).run()
    assert solution.gap == 0 and solution.cost == pytest.approx(brute_force(sizes, factors))


@pytest.mark.parametrize("problem", [clique(1), clique(2, 7, 4), random_problem(3)], ids=("eight", "seven", "random"))
def test_entangled_problems_are_solved(problem):
    sizes, factors = integers(problem)
    found = solved((sizes, factors))
    assert found.bound == found.cost == brute_force(sizes, factors) if len(sizes) < 9 else found.bound == found.cost


def test_work_is_bounded_and_the_bound_holds(monkeypatch):
    """A search that is stopped says how far off it may be."""
    sizes, factors = integers(clique(4))
    best = brute_force(sizes, factors)
    bounds = []
    for work in (0, 1, 1 << 20):
        monkeypatch.setattr(joint, "MOST_WORK", work)
        found = solved((sizes, factors))
        assert found.bound <= best <= found.cost
        bounds.append(found.bound)
    assert bounds == sorted(bounds)


def test_half_of_the_work_is_enough_near_the_optimum(monkeypatch):
    """With a bound as near as is asked, a search stops at half of its work; else it goes on."""
    sizes, factors = integers(clique(4))
    optimum = solved((sizes, factors))
    assert optimum.bound == optimum.cost
    monkeypatch.setattr(joint, "MOST_WORK", 2)
    monkeypatch.setattr(joint, "NEAR", 1.0)
    near = solved((sizes, factors))
    assert near.bound <= optimum.cost <= near.cost
    monkeypatch.setattr(joint, "MOST_WORK", 1 << 40)
    assert solved((sizes, factors)).bound == optimum.cost


def test_what_cannot_be_done_is_not_chosen():
    """A choice that is possible is found where most are not."""
    sizes = dict.fromkeys(range(6), 3)
    table = np.full((3, 3), INFINITE)
    table[0, 1] = table[1, 2] = table[2, 0] = 5
    factors = [((a, a + 1), table) for a in range(5)] + [((0,), np.array([9, 9, 0]))]
    found = solved((sizes, factors))
    assert found.cost == found.bound == 25 and found.choice == {0: 2, 1: 0, 2: 1, 3: 2, 4: 0, 5: 1}


def test_equal_layers_are_passed_through_once():
    """Twice the layers take no more than a few tables more than half of them."""
    rng = np.random.default_rng(5)
    pair, single = rng.integers(0, 1000, (8, 8)), rng.integers(0, 1000, 8)
    work = []
    for layers in (100, 200):
        order = list(range(layers))
        factors = [((v, v + 1), pair) for v in order[:-1]] + [((v,), single) for v in order]
        dual = Dual(order, dict.fromkeys(order, 8), factors, INFINITE)
        dual.run(4)
        work.append(dual.work)
    assert work[1] < 1.2 * work[0]
