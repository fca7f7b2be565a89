"""What can only help never makes a plan cost more: two axes in place of one over equal links, fewer constraints, more candidates, more
memory, and nothing at all in place of ready-made specs.
"""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spmd import Mesh, ShardingError
from spmd.annotate import annotate
from spmd.costs.cost import Cost
from spmd.ir.inline import inlined
from spmd.ir.lift import lifted
from spmd.placement.spec import Constraint
from spmd.presets import data_parallel, fsdp, megatron
from spmd.program.build import build_graph
from spmd.propagate import axes_together
from spmd.propagate.budget import decide_within
from spmd.propagate.decide import decide
from spmd.propagate.memory import Usage
from spmd.testing.programs import SIZES, programs
from tests.presets.llama import llama
from tests.propagate.test_optimum import SLOW_WORKERS

CLOSE = 1 + 1e-9
MESHES = st.sampled_from([Mesh(tp=2), Mesh(tp=3), Mesh(dp=2, tp=2)])


def annotated(module, mesh, specs=None):
    """The graph of a module, with what is asked of its values."""
    return annotate(build_graph(lifted(inlined(module))), mesh, specs)


def cost(module, mesh, specs=None):
    """Of the plan of a module under the profile of slow workers."""
    return decide(annotated(module, mesh, specs), Cost(mesh, SLOW_WORKERS, SIZES)).solution.cost


@pytest.mark.parametrize(
    ("meshes", "share"),
    [
        ((Mesh(tp=4), Mesh(dp=2, tp=2)), 1),
        ((Mesh(tp=6), Mesh(dp=2, tp=3)), 4),
        ((Mesh(tp=8), Mesh(dp=2, tp=4), Mesh(dp=2, tp=2, cp=2)), 20),
        ((Mesh(dp=4, tp=2), Mesh(dp=2, tp=2, cp=2)), 20),
    ],
    ids=str,
)
def test_a_refined_mesh(meshes, share):
    """Each mesh has more axes than the one before it, which are one axis there."""

    @settings(max_examples=max(40, settings.default.max_examples // 4) // share)
    @given(st.data())
    def never_worse(data):
        module = data.draw(programs(functions=2, operators=4))
        costs = [cost(module, mesh) for mesh in meshes]
        assert all(finer <= coarser * CLOSE for coarser, finer in pairwise(costs)), costs

    never_worse()


@settings(max_examples=20)
@given(st.data(), MESHES)
def test_a_constraint_less(data, mesh):
    """Any value held in any one of its ways, then free again."""
    module = data.draw(programs(functions=1, operators=5))
    free, held = annotated(module, mesh), annotated(module, mesh)
    found = decide(free, Cost(mesh, SLOW_WORKERS, SIZES))
    shardings = found.problem.candidates.shardings
    places = [i for i, v in enumerate(free.values) if v.wanted is None and v.is_tensor and len(shardings[v]) > 1]
    assume(places)
    place = data.draw(st.sampled_from(places))
    value = held.values[place]
    value.wanted, value.reason = Constraint.exactly(data.draw(st.sampled_from(shardings[free.values[place]]))), "the test asks for it"
    with suppress(ShardingError):  # it may be that it cannot be held so, with what else is asked
        assert found.solution.cost <= decide(held, Cost(mesh, SLOW_WORKERS, SIZES)).solution.cost * CLOSE


@settings(max_examples=15)
@given(st.data())
def test_more_candidates(data):
    module, mesh = data.draw(programs(functions=1, operators=4)), Mesh(dp=2, tp=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axes_together, "MOST_STRATEGIES", 6)
        few = cost(module, mesh)
    assert cost(module, mesh) <= few * CLOSE


@settings(max_examples=15)
@given(st.data(), MESHES, st.floats(0.5, 1), st.floats(0.5, 1))
def test_more_memory(data, mesh, some, other):
    module = data.draw(programs(functions=1, operators=4))
    fastest = decide(annotated(module, mesh), Cost(mesh, SLOW_WORKERS, SIZES))
    needed = Usage(fastest.problem, fastest.solution.choice).peak

    def within(part):
        """The cost and the bound of the plan that fits into so much; infinite where nothing does."""
        try:
            solution = decide_within(annotated(module, mesh), Cost(mesh, SLOW_WORKERS, SIZES, part * needed)).solution
        except ShardingError:
            return float("inf"), float("inf")
        return solution.cost, solution.bound

    (least, _), (most, bound) = within(max(some, other)), within(min(some, other))
    assert least <= most * CLOSE
    assert fastest.solution.cost <= bound * CLOSE


@pytest.mark.parametrize(
    ("mesh", "preset"),
    [
        (Mesh(tp=2), megatron),
        (Mesh(dp=2), data_parallel),
        (Mesh(dp=2), fsdp),
        (Mesh(dp=2, tp=2), lambda mod: fsdp(mod, "dp", megatron(mod))),
    ],
    ids=["megatron", "data parallel", "fully sharded", "fully sharded and megatron"],
)
def test_nothing_but_how_data_comes_and_goes(mesh, preset):
    """What ready-made specs ask for is among what is searched: without those of weights, a plan costs no more."""
    mod, _ = llama("forward")
    specs = preset(mod)
    ends = {v.path for v in annotated(mod, mesh).values if v.role == "input"}
    loose = {name: spec for name, spec in specs.items() if name in ends or ".return" in name}
    assert cost(mod, mesh, loose) <= cost(mod, mesh, specs) * CLOSE
