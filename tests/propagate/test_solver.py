"""Elimination and search against brute force and an integer program, on random problems."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array

from spmd.propagate.search import Search
from spmd.propagate.solver import Elimination, Limits, conditioned

SMALL = st.sampled_from([0.0, 1.0, 2.0, 3.5, 7.0])
"""Few different costs, so that ties are common."""


def tables(draw, sizes, scopes, costs=SMALL):
    def table(scope):
        shape = [sizes[v] for v in scope]
        count = int(np.prod(shape))
        return np.array(draw(st.lists(costs, min_size=count, max_size=count))).reshape(shape)

    return [(scope, table(scope)) for scope in scopes]


def scopes_of(draw, variables):
    pairs = [(a, b) for a in variables for b in variables if a != b]
    scopes = [(v,) for v in variables]
    if pairs:
        scopes += draw(st.lists(st.sampled_from(pairs), max_size=2 * len(variables)))
    return scopes


@st.composite
def problems(draw):
    sizes = dict(enumerate(draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))))
    return sizes, tables(draw, sizes, scopes_of(draw, list(sizes)))


@st.composite
def shared_problems(draw):
    """Two or three groups over variables of which some are in several groups."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=7))
    groups = []
    for _ in range(draw(st.integers(2, 3))):
        members = draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=5, unique=True))
        groups.append(tables(draw, sizes, scopes_of(draw, sorted(members))))
    return sizes, groups


def cost(factors, choice):
    return sum(table[tuple(choice[v] for v in scope)] for scope, table in factors)


def every_choice(sizes, variables):
    for values in product(*(range(sizes[v]) for v in variables)):
        yield dict(zip(variables, values, strict=True))


def brute_force(sizes, factors):
    variables = sorted({v for scope, _ in factors for v in scope})
    return min(cost(factors, choice) for choice in every_choice(sizes, variables))


def integer_program(sizes, factors):
    """The same optimum by linear programming over indicator variables, one for each value and each entry of a table."""
    start, count = {}, 0
    for v, n in sizes.items():
        start[v], count = count, count + n
    costs, rows, right = [0.0] * count, [], []
    rows += [({start[v] + i: 1.0 for i in range(n)}, 1.0) for v, n in sizes.items()]
    for scope, table in factors:
        if len(scope) == 1:
            for i, c in enumerate(table):
                costs[start[scope[0]] + i] += c
            continue
        first, count = count, count + table.size
        costs += list(table.reshape(-1))
        index = np.arange(table.size).reshape(table.shape) + first
        for at, v in enumerate(scope):
            for i in range(sizes[v]):
                rows.append(({**{int(k): 1.0 for k in np.take(index, i, axis=at).reshape(-1)}, start[v] + i: -1.0}, 0.0))
    matrix = lil_array((len(rows), count))
    for r, (row, value) in enumerate(rows):
        right.append(value)
        for k, c in row.items():
            matrix[r, k] = c
    matrix = matrix.tocsr()
    found = milp(costs, constraints=LinearConstraint(matrix, right, right), bounds=Bounds(0, 1), integrality=np.ones(count))
    assert found.success
    return found.fun


@given(problems())
def test_elimination_finds_the_optimum(problem):
    sizes, factors = problem
    solved = Elimination(sizes, factors)
    assert solved.cost == pytest.approx(brute_force(sizes, factors))
    assert cost(factors, solved.choice()) == pytest.approx(solved.cost)
    assert solved.core == [] and set(solved.choice()) == set(sizes)


def least_with(sizes, factors, v, value):
    """The optimum where a variable has this value."""
    return Elimination({u: n for u, n in sizes.items() if u != v}, [conditioned(factor, {v: value}) for factor in factors]).cost


@given(problems())
def test_regrets_are_what_each_value_costs_more(problem):
    sizes, factors = problem
    solved = Elimination(sizes, factors)
    for v, regret in solved.regrets(sizes).items():
        forced = [least_with(sizes, factors, v, value) - solved.cost for value in range(sizes[v])]
        np.testing.assert_allclose(regret, forced, atol=1e-9)


@given(problems(), st.data())
def test_fixed_variables_keep_their_value(problem, data):
    sizes, factors = problem
    fixed = {v: data.draw(st.integers(0, sizes[v] - 1)) for v in data.draw(st.sets(st.sampled_from(sorted(sizes))))}
    solved = Elimination({v: n for v, n in sizes.items() if v not in fixed}, [conditioned(factor, fixed) for factor in factors])
    best = min(cost(factors, c) for c in every_choice(sizes, sorted(sizes)) if all(c[v] == n for v, n in fixed.items()))
    assert solved.cost == pytest.approx(best)
    assert not solved.choice().keys() & fixed.keys()
    assert cost(factors, solved.choice(fixed)) == pytest.approx(best)


@given(shared_problems())
def test_search_over_shared_variables_finds_the_joint_optimum(problem):
    sizes, groups = problem
    factors = [f for group in groups for f in group]
    solution = Search(sizes, groups).run()
    best = brute_force(sizes, factors)
    assert cost(factors, solution.choice) == pytest.approx(solution.cost)
    assert solution.cost >= best - 1e-9
    assert solution.gap == pytest.approx(0.0) or solution.cost * (1 - solution.gap) <= best + 1e-9
    if solution.gap == 0:
        assert solution.cost == pytest.approx(best)


def random_problem(seed, variables=14, values=4, edges=20):
    rng = np.random.default_rng(seed)
    sizes = dict.fromkeys(range(variables), values)
    scopes = [(v,) for v in sizes] + [tuple(rng.choice(variables, 2, replace=False).tolist()) for _ in range(edges)]
    return sizes, [(scope, rng.random([values] * len(scope))) for scope in scopes]


@pytest.mark.parametrize("seed", range(5))
def test_elimination_agrees_with_an_integer_program(seed):
    sizes, factors = random_problem(seed)
    assert Elimination(sizes, factors).cost == pytest.approx(integer_program(sizes, factors))


@pytest.mark.parametrize("seed", range(3))
def test_search_agrees_with_an_integer_program(seed):
    """Two chains (two functions) that share every third variable (weights)."""
    rng = np.random.default_rng(seed)
    sizes = [4] * 20
    shared = list(range(0, 12, 3))
    groups = []
    for members in ([*range(12)], sorted({*shared, *range(12, 20)})):
        scopes = [(v,) for v in members] + list(pairwise(members))
        groups.append([(tuple(scope), rng.random([4] * len(scope))) for scope in scopes])
    solution = Search(sizes, groups).run()
    assert solution.gap == 0
    assert solution.cost == pytest.approx(integer_program(dict(enumerate(sizes)), [f for g in groups for f in g]))


def test_a_chain_has_width_one():
    sizes = dict.fromkeys(range(50), 3)
    solved = Elimination(sizes, [((i, i + 1), np.ones((3, 3))) for i in range(49)])
    assert solved.width == 1 and solved.cost == 49


def test_ties_go_to_the_lowest_values():
    sizes = {0: 3, 1: 3}
    assert Elimination(sizes, [((0, 1), np.zeros((3, 3)))]).choice() == {0: 0, 1: 0}
    assert Search([3, 3], [[((0, 1), np.zeros((3, 3)))], [((1,), np.zeros(3))]]).run().choice == {0: 0, 1: 0}


def clique(seed, variables=8, values=3):
    rng = np.random.default_rng(seed)
    sizes = dict.fromkeys(range(variables), values)
    return sizes, [((a, b), rng.random((values, values))) for a in sizes for b in sizes if a < b]


def test_what_would_need_too_large_a_table_is_left():
    """A clique of eight: elimination would need a table over seven variables. What is left has the same optimum."""
    sizes, factors = clique(0)
    exact = Elimination(sizes, factors)
    assert exact.width == 7 and exact.core == []
    bounded = Elimination({**sizes, 8: 2}, [*factors, ((0, 8), np.ones((3, 2)))], limits=Limits(3**4, 3**4))
    assert bounded.core == list(sizes) and bounded.width == 1
    rest = Elimination(sizes, bounded.left)
    assert bounded.cost + rest.cost == pytest.approx(exact.cost + 1)
    choice = bounded.choice(rest.choice())
    assert cost(factors, choice) == pytest.approx(exact.cost) and choice[8] == 0


def test_some_variables_can_be_kept():
    sizes, factors = random_problem(0)
    part = Elimination(sizes, factors, kept={3, 5})
    assert part.core == [3, 5]
    assert part.cost + Elimination({3: 4, 5: 4}, part.left).cost == pytest.approx(Elimination(sizes, factors).cost)
