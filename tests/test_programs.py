"""Random programs with random specs on random meshes give what they give unsharded.

A slice of programs is drawn, then run as few modules, one for each number of workers; what fails is made small by
`spmd.testing.shrink`, not by Hypothesis, which draws only. `make fuzz` runs 20,000 new ones.
"""

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from spmd.testing import Case, assert_all_equivalent
from spmd.testing.programs import DIVISIBLE, NARROW, SIZES, loops, meshes, programs, specs

ONE_SLICE = 250
LIFT = 16
"""The tensors of these programs are small."""


def drawn(number, count, on=None, of=None, narrow=NARROW):
    """`count` programs of one or two functions, always the same for the same number; `on`: a strategy of their meshes, `of`: of others;
    `narrow`: types that they are rounded to.
    """
    cases = []

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def draw(data):
        large = data.draw(st.sampled_from(range(10))) == 0
        plain = programs(functions=2 if large else 1, operators=30 if large else 12, prefix=f"f{len(cases)}_", narrow=narrow)
        mod = data.draw(of(prefix=f"f{len(cases)}_") if of else plain)
        mesh = data.draw(on or meshes(6))
        cases.append(Case(mod, mesh, data.draw(specs(mod, mesh, DIVISIBLE, LIFT)), SIZES, DIVISIBLE, LIFT))

    draw()
    return cases


def pytest_generate_tests(metafunc):
    """Slices of the programs that are asked for."""
    parametrize(metafunc, "programs", ONE_SLICE)


def parametrize(metafunc, option, one):
    """With slices of `one` program each. The seed is in the name of the test, to run one of them again."""
    if "slice_seed" in metafunc.fixturenames:
        count, first = metafunc.config.getoption(option), metafunc.config.getoption("programs_seed")
        slices = [one] * (count // one) + [count % one] * (count % one > 0)
        metafunc.parametrize(("slice_seed", "count"), [(first + i, size) for i, size in enumerate(slices)])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_programs(slice_seed, count, record_property):
    cases = drawn(slice_seed, count)
    functions = assert_all_equivalent(cases, seed=slice_seed)
    record_property("programs", len(cases))
    record_property("functions", functions)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_programs_with_special_numbers(slice_seed, count):
    """A fifth of them again, with infinities and zeros of both signs among their arguments."""
    assert_all_equivalent(drawn(slice_seed, max(count // 5, 1)), seed=slice_seed, special=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_programs_with_loops(slice_seed, count):
    """One for 25 of them, in which private functions call themselves."""
    assert_all_equivalent(drawn(slice_seed, max(count // 25, 1), of=loops), seed=slice_seed)
