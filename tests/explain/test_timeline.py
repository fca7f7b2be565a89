"""Time lines: the parts of a predicted one add up to the predicted time, and those of a traced one are what ran."""

import itertools

import numpy as np
import pytest

import spmd
from spmd import P
from spmd.plan.timeline import COLLECTIVE, COMPUTE, FUNCTION, RUNTIME
from tests.lower.test_branch import Partial
from tests.plan.test_timeline import checked, nests
from tests.programs import Mlp, Two
from tests.test_loops_programs import Stack

SPLIT = {"w1": P(None, "tp"), "w2": P("tp", None)}
PLANS = [
    (Mlp, SPLIT, 2),
    (Two, {}, 3),
    (Partial, {"w": P(None, "tp")}, 2),
    (Stack, {}, 2),
    (Mlp, SPLIT, spmd.Mesh(dp=2, tp=2, hosts=2)),
]


@pytest.mark.parametrize(("mod", "specs", "mesh"), PLANS)
def test_the_total_is_the_predicted_time(mod, specs, mesh):
    plan = spmd.plan(mod, mesh, specs)
    events = checked(plan.timeline().to_json())
    assert nests(events)
    for name, seconds in plan.predicted.items():
        line = plan.timeline(name)
        assert line.total() == seconds and line.total(name) == plan.timeline().total(name)
        for spans in line.workers.values():
            assert sum(s.seconds for s in spans if s.kind != FUNCTION) == pytest.approx(seconds, rel=1e-9)
            ends = [(s.start, s.end) for s in spans if s.kind != FUNCTION]
            assert all(b[0] >= a[1] - 1e-15 for a, b in itertools.pairwise(ends)), "one after another"
            assert not ends or (ends[0][0] >= 0 and ends[-1][1] <= seconds * (1 + 1e-9))
        durations = [e["dur"] for e in events if e["ph"] == "X" and e["cat"] == FUNCTION and e["name"] == name]
        assert durations == [pytest.approx(1e6 * seconds, abs=1e-3)] * plan.mesh.size
    assert {e["pid"] for e in events} == set(range(1, plan.mesh.size + 1))
    assert plan.timeline().total() == pytest.approx(sum(plan.predicted.values()))


def test_what_is_in_it():
    line = spmd.plan(Mlp, 2, SPLIT).timeline("main")
    assert [(s.kind, s.name) for s in line.workers[1]] == [
        (FUNCTION, "main"),
        (COMPUTE, "matmul up"),
        (COMPUTE, "nn.relu active"),
        (COMPUTE, "matmul down"),
        (COLLECTIVE, "all_reduce tp down"),
    ]
    assert line.workers[0][-1].details == {"bytes": 256, "from": "[-, -] sum@tp", "to": "[-, -]"}
    assert [s.seconds for s in line.exposed(0)] == [pytest.approx(line.workers[0][-1].seconds)]


def test_of_many_workers_some_are_written():
    line = spmd.plan(Mlp, 64, SPLIT).timeline()
    assert len(line.workers) == 16 and line.left_out == 48


def test_a_traced_run():
    sharded = spmd.shard(Mlp, 2, SPLIT)
    weights = {"w1": np.ones((16, 32), "float32"), "w2": np.ones((32, 16), "float32")}
    with spmd.workers(sharded) as w:
        held, x = w.load(weights), np.ones((4, 16), "float32")
        line = w["main"].timeline(x, *held)
        again = w["main"](x, w1=held[0], w2=held[1])
        assert w["main"].timeline(x, w1=held[0], w2=held[1]).total() > 0
    assert np.array_equal(again, np.full((4, 16), 512, "float32"))
    assert list(line.workers) == [0, 1] and line.what == "traced"
    for spans in line.workers.values():
        whole, *parts = spans
        assert (whole.kind, whole.name) == (FUNCTION, "main")
        assert all(whole.start <= s.start and s.end <= whole.end for s in parts)
        assert [(s.name) for s in parts if s.kind == COLLECTIVE] == ["all_reduce tp down"]
        assert len([s for s in parts if s.kind == COMPUTE]) in (2, 3) and any(s.kind == RUNTIME for s in parts)
    both = checked((sharded.plan.timeline() + line).to_json())
    assert nests(both)
    names = [e["args"]["name"] for e in both if e["name"] == "process_name"]
    assert sorted(names) == ["worker 0, predicted", "worker 0, traced", "worker 1, predicted", "worker 1, traced"]


def test_errors():
    plan = spmd.plan(Mlp, 2)
    with pytest.raises(spmd.ShardingError, match=r"Plan\.timeline: there is no function 'mian'\. Did you mean 'main'"):
        plan.timeline("mian")
    with spmd.workers(spmd.shard(Mlp, 2)) as w, pytest.raises(spmd.ShardingError, match="it takes 3 arguments"):
        w["main"].timeline()
