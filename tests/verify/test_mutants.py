"""Wrong programs are found: one change each of a right one. `python -m tests.verify.mutants` makes many more."""

from collections import Counter

import pytest

import spmd
from spmd import Mesh, P
from spmd.testing.equivalence import FREE_LINKS
from tests.verify.mutants.make import mutants
from tests.verify.mutants.sources import Source, accumulated
from tests.verify.test_verify import Mlp

CASES = {
    "rows": (2, {"w": P("tp", None)}),
    "columns": (2, {"w": P(None, "tp"), "main.return": P(None, "tp")}),
    "padded": (3, {"w": P("tp", None), "main.x": P("tp", None), "main.return": P(None, "tp")}),
    "both": (Mesh(dp=2, tp=2), {"w": P("dp", "tp"), "main.return": P("dp", None)}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_mutant_is_killed(name):
    """Or computes the same, as where two workers change places."""
    mesh, specs = CASES[name]
    source = Source(name, Mlp, spmd.shard(Mlp, mesh, specs, profile=FREE_LINKS))
    made = [(kind, function, wrong) for kind, function, make in mutants(source.sharded) if (wrong := make()) is not None]
    said = [(source.outcome(function, wrong), kind, wrong.mod.script()) for kind, function, wrong in made]
    assert len(said) > 5
    assert not [one for one in said if one[0] not in ("killed", "equivalent")]
    assert Counter(one[0] for one in said)["killed"] > 0.8 * len(said)


def test_faults_in_a_step_of_two_batches():
    """One mutant a class: a reduction that lacks or is scaled, on all workers or on one."""
    source, said = accumulated(), dict[str, str]()
    for kind, function, make in mutants(source.sharded):
        if kind not in said and (wrong := make()) is not None:
            said[kind] = source.outcome(function, wrong)
    assert {kind for kind, outcome in said.items() if outcome != "killed"} == set()
    assert said.keys() >= {
        *("a partial sum is used as whole", "a collective gives nothing", "another collective"),
        *("a value is scaled by the number of workers", "a mean is not divided by the number of workers"),
        *("one worker takes another operand", "one worker scales otherwise"),
    }
