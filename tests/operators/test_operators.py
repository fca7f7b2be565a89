"""Every strategy of every operator's rule gives the right numbers, and none is missing.

A family is one module beside this file: `MODULE` has one function an operator call, `ARGUMENTS` and `MISSING` say what is special,
`SPECIAL` and `NAN` which have no right answer where there are infinities and zeros of both signs, or NaN, and why.
"""

import importlib
from contextlib import nullcontext

import pytest
import tvm
from tvm import relax

from spmd import Mesh
from spmd.testing import find_missing, prove
from tests.operators import document

FAMILIES = document.families()


def family(name: str):
    return importlib.import_module(f"tests.operators.{name}")


def meaning(rows):
    """What a family has to teach TVM before it can run."""
    return getattr(rows, "meaning", nullcontext)()


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_strategy_is_right(name, workers):
    rows = family(name)
    with meaning(rows):
        wrong = [v for v in prove(rows.MODULE, workers, arguments=rows.ARGUMENTS) if v.status != "right"]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("name", FAMILIES)
def test_strategies_are_right_with_special_numbers(name):
    """Infinities, NaN, denormal numbers and the signs of zeros; some strategies of each operator."""
    rows = family(name)
    without_nan, left_out = getattr(rows, "NAN", {}), getattr(rows, "SPECIAL", {})
    wrong = []
    with meaning(rows):
        for special in ("all", "infinite") if without_nan else ("all",):
            skipped = {*left_out, *(without_nan if special == "all" else rows_of(rows) - without_nan.keys())}
            verdicts = prove(without(rows.MODULE, skipped), 3, arguments=rows.ARGUMENTS, special=special, most=2)
            wrong += [v for v in verdicts if v.status != "right"]
    assert not wrong, "\n".join(map(str, wrong))


def rows_of(rows):
    """The names of a family's functions."""
    return {var.name_hint for var, f in rows.MODULE.functions.items() if isinstance(f, relax.Function)}


def without(mod, names):
    """A module without some of its functions."""
    return tvm.IRModule({var: f for var, f in mod.functions.items() if var.name_hint not in names}, attrs=mod.attrs)


@pytest.mark.parametrize("name", FAMILIES)
def test_strategies_over_two_axes_are_right(name):
    """Some of each operator: of all together, every axis does all that it does alone."""
    rows = family(name)
    with meaning(rows):
        wrong = [v for v in prove(rows.MODULE, Mesh(dp=2, tp=2), arguments=rows.ARGUMENTS, most=5) if v.status != "right"]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_strategy_is_missing(name):
    rows = family(name)
    with meaning(rows):
        verdicts = find_missing(rows.MODULE, 2, arguments=rows.ARGUMENTS)
    missing = [v for v in verdicts if v.function not in rows.MISSING and v.status != "untried"]
    assert not missing, "\n".join(map(str, missing))


def test_the_page_is_up_to_date():
    assert document.PAGE.read_text() == document.text(), "run python -m tests.operators.document"
