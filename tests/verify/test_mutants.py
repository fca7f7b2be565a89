"""Wrong programs are found: one change each of a right one. `python -m tests.verify.mutants` makes many more."""

from dataclasses import replace

import pytest

import spmd
from spmd import Mesh, P, ShardingError
from spmd.testing.equivalence import FREE_LINKS
from tests.verify.mutants import mutants
from tests.verify.test_verify import Mlp

CASES = {
    "rows": (2, {"w": P("tp", None)}),
    "columns": (2, {"w": P(None, "tp"), "main.return": P(None, "tp")}),
    "padded": (3, {"w": P("tp", None), "main.x": P("tp", None), "main.return": P(None, "tp")}),
    "both": (Mesh(dp=2, tp=2), {"w": P("dp", "tp"), "main.return": P("dp", None)}),
}

EQUIVALENT = {"both": ["other_order"]}
"""Classes of mutants that compute the same: two workers that change places do so whichever axis is the first."""


@pytest.mark.parametrize("name", CASES)
def test_every_mutant_is_killed(name):
    mesh, specs = CASES[name]
    sharded = spmd.shard(Mlp, mesh, specs, profile=FREE_LINKS)
    survived = []
    for kind, _, wrong in mutants(sharded.mod):
        try:
            spmd.verify(Mlp, replace(sharded, mod=wrong))
        except ShardingError:
            continue
        survived.append((kind, wrong.script()))
    assert [kind for kind, _ in survived] == EQUIVALENT.get(name, []), survived
