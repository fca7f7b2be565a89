"""spmd from several threads at once, as in a server that compiles: each gets what one alone gets, and nothing is left changed."""

import gc
import threading

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.frontend import nn

import spmd
from spmd import P
from spmd.ir.builder import Builder
from spmd.testing import FREE_LINKS, assert_equivalent
from tests.programs import Mlp, Two


class Layers(nn.Module):
    def __init__(self, count):
        self.layers = nn.ModuleList([nn.Linear(64, 64, bias=False) for _ in range(count)])

    def forward(self, x):
        for layer in self.layers:
            x = nn.op.silu(layer(x))
        return x


def exported(count):
    return Layers(count).export_tvm({"forward": {"x": nn.spec.Tensor(["rows", 64], "float32")}})[0]


def in_threads(work, count=4, times=6):
    """Calls work(i) in `count` threads, `times` times in each; what was raised."""
    raised, start = [], threading.Barrier(count)

    def go(i):
        start.wait()
        for _ in range(times):
            try:
                work(i)
            except BaseException as error:
                raised.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=go, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return raised


def test_shard_plan_and_lower():
    mods = [exported(3 + i) for i in range(4)]
    alone = [spmd.shard(m, 2, profile=FREE_LINKS).mod.script() for m in mods]

    def work(i):
        assert spmd.shard(mods[i], 2, profile=FREE_LINKS).mod.script() == alone[i]
        plan = spmd.plan(mods[i], 2, profile=FREE_LINKS)
        assert spmd.lower(mods[i], plan).script() == alone[i]

    assert in_threads(work) == []


def test_workers_and_tests():
    """Programs are compiled, run and checked at once; a call of spmd from within a cost goes on as well."""

    class Own(spmd.Cost):
        def compute_time(self, work):
            spmd.plan(Mlp, 2)
            return super().compute_time(work)

    x, w1, w2 = (np.ones(s, "float32") for s in [(4, 16), (16, 32), (32, 16)])

    def work(i):
        if i % 2:
            assert_equivalent(Two, 2, {"w": P(None, "tp")})
        else:
            with spmd.workers(spmd.shard(Mlp, 2, profile=FREE_LINKS, cost=Own)) as w:
                np.testing.assert_allclose(w["main"](x, w1, w2), x @ w1 @ w2)

    assert in_threads(work, times=2) == []


def test_alternatives_of_one_plan():
    plan = spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "w2": P("tp", None)}, profile=FREE_LINKS)
    names = ["w1", "main.up", "main.x", "main"]
    expected = [plan.explain(name) for name in names]

    def work(i):
        assert plan.explain(names[i]) == expected[i]

    assert in_threads(work) == []


def test_explaining_changes_nothing_of_the_graph():
    plan = spmd.plan(Mlp, 2, {"w1": P(None, "tp"), "main.return": P("tp", None)}, profile=FREE_LINKS)
    graph = plan.searched._problem.graph
    functions = {name: (f, list(f.at_end), list(f.nodes)) for name, f in graph.functions.items()}
    wanted = {v: v.wanted for v in graph.values}
    seen = []

    def watch(event, _):
        seen.append(all(f.at_end == ends and f.nodes == nodes for f, ends, nodes in functions.values()))
        seen.append(all(v.wanted is w for v, w in wanted.items()))

    gc.callbacks.append(watch)  # looks while others are at work, too
    try:
        assert plan.searched.lifted("w1") is not None
        assert plan.searched.lifted("main") is not None
        plan.explain("w1")
    finally:
        gc.callbacks.remove(watch)
    watch("", {})
    assert all(seen)


def test_builders_that_others_left_open_do_not_matter():
    """An error in a user's function leaves TVM's list of builders as it was when it came."""
    expected = spmd.shard(Mlp, 2).mod.script()
    left = relax.BlockBuilder()
    relax.BlockBuilder._stack.append(left)
    try:
        assert spmd.shard(Mlp, 2).mod.script() == expected
        assert relax.BlockBuilder._stack[-1] is left
    finally:
        relax.BlockBuilder._stack.remove(left)


@pytest.mark.parametrize("given", [True, False], ids=["parameters first", "parameters at the end"])
def test_a_builder_writes_what_that_of_tvm_writes(given):
    def written(bb):
        n = tvm.tirx.Var("n", "int64")
        x = relax.Var("x", relax.TensorType([n, 4], "float32"))
        with bb.function("main", [x] if given else None, attrs={"num_input": 1}):
            with bb.dataflow():
                out = bb.emit_output(relax.op.add(bb.emit(relax.op.sin(x)), x))
            bb.emit_func_output((out, [x]), None if given else [x])
        return bb.finalize()

    tvm.ir.assert_structural_equal(written(Builder()), written(relax.BlockBuilder()), map_free_vars=True)
    bb = Builder()
    with pytest.raises(RuntimeError, match="emit_func_output must be called in a relax function"), bb.function("main", []):
        pass
    assert relax.BlockBuilder._stack == []


def test_garbage_is_collected_while_others_plan():
    """Collection is on, and what another thread drops meanwhile goes."""
    on, freed = [], []

    class Looped:
        def __init__(self):
            self.me = self

        def __del__(self):
            freed.append(True)

    class Own(spmd.Cost):
        def compute_time(self, work):
            if not on:
                on.append(gc.isenabled())
                Looped()
                gc.collect()
                on.append(bool(freed))
            return super().compute_time(work)

    before = gc.get_freeze_count()
    spmd.shard(Mlp, 2, cost=Own)
    assert on == [True, True]
    assert gc.get_freeze_count() == before


def test_objects_that_somebody_froze_stay_so():
    gc.freeze()
    try:
        spmd.shard(Mlp, 2)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
