"""What a solution costs in the tables is what its operators and conversions cost one by one, worked out again with nothing remembered."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.relax import op

import spmd
from spmd import Mesh, P
from spmd.annotate import annotate
from spmd.costs.cost import INFEASIBLE, Cost
from spmd.costs.profile import Profile
from spmd.ir.inline import inlined
from spmd.ir.lift import lifted
from spmd.plan.steps import Mask
from spmd.program.build import build_graph
from spmd.program.storage import loses_writes
from spmd.propagate.budget import decide_within
from spmd.propagate.planner import make_plan
from spmd.testing.programs import SIZES, programs, specs

SLOW = Profile("slow workers", flops=1e6, memory_bandwidth=1e6, link_bandwidth=1e7, link_latency=1e-6)
FAST = Profile("fast", flops=1e12, memory_bandwidth=1e12, link_bandwidth=50e9, link_latency=5e-6)
PACKED = ("problem.cheap", "problem.heavy", "problem.view", "problem.sparse", "problem.summed")
spmd.rule("problem.cheap")(lambda call: call.bind("a b -> a b", whole="b"))
spmd.rule("problem.heavy")(lambda call: call.bind("a b -> a c", whole="b c"))
spmd.rule("problem.view")(lambda call: call.bind("a b -> a b", whole="b", work="view"))
spmd.rule("problem.sparse")(lambda call: call.bind("a b -> a b", whole="b", sparse=(0,)))
spmd.rule("problem.summed")(lambda call: call.bind("a b -> a c", whole="b c", uncounted="b"))


class Own(Cost):
    """One that tells operators of one size apart by their kind."""

    def compute_time(self, work):
        return super().compute_time(work) * {"view": 1.0, "pointwise": 3.0}.get(work.kind, 2.0) + 1e-7 * (work.kind == "pointwise")


def packed(names, size=16):
    """A chain of packed functions, all of one type."""
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType([size, size], "float32"))
    with bb.function("packed", [x]):
        with bb.dataflow():
            y = x
            for name in names:
                y = bb.emit(op.call_dps_packed(name, [y], out_ty=x.ty))
            out = bb.emit_output(y)
        bb.emit_func_output(out)
    return bb.finalize()


def taken(problem, choice, value, sharding, cost):
    """The time to convert a value to how it is taken; where it is in two placements, to the second one it is converted already."""
    if sharding == problem.second(value, choice):
        return 0.0
    gather = value.wanted is None or value.wanted.gather
    return cost.convert(cost.shape(value), cost.item_bytes(value), problem.sharding(value, choice), sharding, gather)


def placed(problem, choice, value, made, cost):
    """The time to convert a value from how it is made to how it is kept, and on to a second placement."""
    kept, second, gather = problem.sharding(value, choice), problem.second(value, choice), value.wanted is None or value.wanted.gather
    ends = [(made, kept)] if second is None else [(made, kept), (kept, second)]
    return sum(cost.convert(cost.shape(value), cost.item_bytes(value), source, target, gather) for source, target in ends)


def node_time(problem, choice, node, strategy, cost):
    """An operator and the conversions around it, by the book."""
    kept = [problem.sharding(v, choice) for v in (*node.inputs, *node.outputs)]
    moves = zip(kept, (*strategy.inputs, *strategy.outputs), strict=True)
    lost = loses_writes(node, strategy, cost.mesh) or any(stays and a != b for stays, (a, b) in zip(node.stays, moves, strict=False))
    inside = INFEASIBLE * (lost or problem._gathered_inside(node, strategy))
    times = [taken(problem, choice, v, s, cost) for v, s in zip(node.inputs, strategy.inputs, strict=True)]
    times += [placed(problem, choice, v, s, cost) for v, s in zip(node.outputs, strategy.outputs, strict=True)]
    return inside + cost.operator(node, strategy) + sum(times)


def recomputed(problem, choice, fresh):
    """The cost of a solution of all functions, no two operators sharing anything; `fresh` makes a cost that remembers nothing yet."""
    total = 0.0
    for function in problem.graph.functions.values():
        for node in function.nodes:
            total += node_time(problem, choice, node, problem.strategy(node, choice), fresh())
        for value, wanted, _ in function.at_end:
            if wanted is not None:
                total += taken(problem, choice, value, problem.at_end(value, wanted, choice), fresh())
    made = {v for function in problem.graph.functions.values() for node in function.nodes for v in node.outputs}
    return total + sum(placed(problem, choice, v, problem.sharding(v, choice), fresh()) for v in problem.values if v not in made)


def in_tables(problem, choice):
    """The same by the tables of the problem."""
    return sum(float(table[tuple(choice[v] for v in scope)]) for group in problem.groups.values() for scope, table in group)


@pytest.mark.parametrize("mesh", [Mesh(tp=2), Mesh(tp=3), Mesh(dp=2, tp=2)], ids=str)
@pytest.mark.parametrize("make", [Cost, Own])
@settings(max_examples=4)
@given(st.data())
def test_solutions_cost_what_their_operators_cost_one_by_one(mesh, make, data):
    module = data.draw(programs(functions=2, operators=4))
    module.update(packed(data.draw(st.lists(st.sampled_from(PACKED), min_size=1, max_size=4))))
    profile = data.draw(st.sampled_from([SLOW, FAST]))

    def fresh():
        return make(mesh, profile, SIZES)

    graph = build_graph(lifted(inlined(module)))
    annotate(graph, mesh, data.draw(specs(module, mesh)))
    decision = decide_within(graph, fresh())
    problem, found = decision.problem, decision.solution
    assert found.cost == pytest.approx(recomputed(problem, found.choice, fresh), rel=1e-6, abs=1e-12)
    numbers = random.Random(data.draw(st.integers(0, 999)))
    for _ in range(2):
        choice = {v: numbers.randrange(size) for v, size in enumerate(problem.sizes)}
        expected, tabled = recomputed(problem, choice, fresh), in_tables(problem, choice)
        assert tabled >= INFEASIBLE if expected >= INFEASIBLE else tabled == pytest.approx(expected, rel=1e-6, abs=1e-12)
        for node, (variables, joint) in problem._joint_of.items():
            if joint.least[tuple(choice[v] for v in variables)] < INFEASIBLE:
                best = min(node_time(problem, choice, node, s, fresh()) for s in problem.candidates.strategies[node])
                assert joint.least[tuple(choice[v] for v in variables)] == pytest.approx(best, rel=1e-6, abs=1e-12)


def counted_once(problem, choice, fresh, name):
    """The time of a function without branches and bundles, each operator and conversion once; whether two conversions begin alike."""
    function, total, done = problem.graph.functions[name], 0.0, set()
    moves = []
    for node in function.nodes:
        strategy = problem.strategy(node, choice)
        total += fresh().operator(node, strategy)
        moves += [(v, problem.sharding(v, choice), s) for v, s in zip(node.inputs, strategy.inputs, strict=True)]
        moves += [(v, s, problem.sharding(v, choice)) for v, s in zip(node.outputs, strategy.outputs, strict=True)]
    for value, wanted, _ in function.at_end:
        if wanted is not None:
            moves.append((value, problem.sharding(value, choice), problem.at_end(value, wanted, choice)))
    for value, source, target in moves:
        if value.is_tensor and (value.memory or (value, target) not in done) and source != target:
            done.add((value, target))
            total += fresh().convert(fresh().shape(value), fresh().item_bytes(value), source, target)
    begun = Counter((value, source) for value, source, target in {m for m in moves if m[1] != m[2] and m[0].is_tensor})
    return total, any(times > 1 for times in begun.values())


@pytest.mark.parametrize("mesh", [Mesh(tp=2), Mesh(tp=3), Mesh(dp=2, tp=2)], ids=str)
@pytest.mark.parametrize("make", [Cost, Own])
@settings(max_examples=4)
@given(st.data())
def test_plans_predict_what_their_operators_and_conversions_take(mesh, make, data):
    module = data.draw(programs(functions=2, operators=4))
    module.update(packed(data.draw(st.lists(st.sampled_from(PACKED), min_size=1, max_size=4))))
    profile = data.draw(st.sampled_from([SLOW, FAST]))

    def fresh():
        return make(mesh, profile, SIZES)

    graph = build_graph(lifted(inlined(module)))
    annotate(graph, mesh, data.draw(specs(module, mesh)))
    plan = make_plan(graph, fresh())
    problem, solution = plan.searched._problem, plan.searched._solution
    assert plan.searched is not None
    for name, function in graph.functions.items():
        collectives = [c for c in plan.collectives if c.function == name]
        if not any(node.branch for node in function.nodes) and not any(c.bundle for c in collectives):
            total, alike = counted_once(problem, solution.choice, fresh, name)
            total += sum(step.seconds for step in plan.steps[name] if isinstance(step, Mask))  # which the search does not price
            assert plan.predicted[name] <= total * (1 + 1e-6) + 1e-12
            assert alike or plan.predicted[name] == pytest.approx(total, rel=1e-6, abs=1e-12)


def time_of(mod, mesh=2, specs=None, profile=FAST):
    return sum(spmd.plan(mod, mesh, specs, profile=profile, memory=float("inf")).predicted.values())


@pytest.mark.parametrize(
    "names", [PACKED[:2], PACKED[1::-1], PACKED, (*PACKED[:1] * 6, *PACKED[1:2] * 6)], ids=["cheap first", "heavy first", "all", "many"]
)
def test_operators_of_one_shape_have_times_of_their_own(names):
    """What nothing but a spec would split is split without it."""
    mod = packed(names, 256)
    assert time_of(mod) <= time_of(mod, specs={"packed.x": P("tp", None)}) * 1.001


def test_each_operator_of_one_type_has_the_time_of_its_rule():
    """The work is named by the rule: full, view, and one of which no more rows are read than it makes."""
    choices = spmd.plan(packed(PACKED), 1, profile=SLOW).choices["packed"]
    seconds = {c.op: c.seconds for c in choices}
    assert seconds["problem.view"] == 0.0
    assert seconds["problem.sparse"] <= seconds["problem.cheap"] == seconds["problem.summed"] < seconds["problem.heavy"]
