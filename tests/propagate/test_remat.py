"""Values that are made again: where it is asked for, and where a budget asks for it; numbers and memory."""

import math
import re
from importlib import import_module

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.relax import op
from tvm.relax.frontend import nn
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, ShardingError
from spmd.program.again import can_be_made_again
from spmd.program.build import build_graph
from spmd.schedules.targets import resolve
from spmd.testing.batch import assert_all_equivalent
from spmd.testing.programs import meshes, programs
from spmd.testing.shrink import Case

LAYERS, BATCH, WIDTH = 3, 64, 8


def training_step(mark=False):
    """The loss and the gradients of layers ``x + silu(x w)``, whose activations are most of what it holds."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([BATCH, WIDTH], "float32"))
    weights = [relax.Var(f"w{i}", relax.TensorType([WIDTH, WIDTH], "float32")) for i in range(LAYERS)]
    with builder.function("loss", [x, *weights], attrs={"num_input": 1}):
        with builder.dataflow():
            h = x
            for i, w in enumerate(weights):
                made = builder.emit(op.matmul(h, w), f"product{i}")
                made = builder.emit(op.nn.silu(made), f"active{i}")
                made = builder.emit(spmd.remat(made), f"marked{i}") if mark else made
                h = builder.emit(op.add(h, builder.emit(op.multiply(made, made))), f"h{i}")
            out = builder.emit_output(builder.emit(op.mean(h)))
        builder.emit_func_output(out)
    mod = relax.transform.Gradient("loss", require_grads=weights)(builder.finalize())
    del mod["loss"]
    return mod


STEP = training_step()
SLOW = spmd.Profile("slow", flops=1e9, memory_bandwidth=1e9, link_bandwidth=1e9, link_latency=1e-6)
"""Workers for which each operator counts, and no kernel takes time to begin."""
FREE = spmd.plan(STEP, 1, profile=SLOW)
PEAK = FREE.memory["loss_adjoint"].peak


RNG = np.random.default_rng(0)
GIVEN = [RNG.normal(size=[int(n) for n in p.ty.shape.values]).astype("float32") for p in STEP["loss_adjoint"].params]


@pytest.fixture(scope="module")
def alone():
    """The loss and the gradients, unsharded, with all held."""
    with spmd.workers(STEP) as w:
        return w["loss_adjoint"](*GIVEN)


def _check(wanted, found):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for one, other in zip(wanted[1], found[1], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def held_when_compiled(sharded):
    """The most bytes that are allocated at once, by the order of kernels in the compiled program."""
    steps = import_module("spmd.schedules.build")._passes(resolve("llvm"), False)
    until = [step.info.name for step in steps].index("CallTIRRewrite") + 1
    with resolve("llvm"):
        function = tvm.transform.Sequential(steps[:until])(sharded.mod)["loss_adjoint"]
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    lying, size, first, last = {}, {}, {}, {}
    for at, binding in enumerate(bindings):
        used = []
        tvm_ffi.structural_walk(binding.value, (tvm.ir.Var, used.append))
        there = set().union(*(lying.get(hash(var), set()) for var in used)) if used else set()
        if "alloc_tensor" in str(getattr(getattr(binding.value, "op", None), "name", "")):
            there = {at}
            size[at], first[at] = 4 * math.prod(int(n) for n in binding.var.ty.shape.values), at
        last.update(dict.fromkeys(there, at))
        lying[hash(binding.var)] = there
    return max(sum(size[one] for one in size if first[one] <= at <= last[one]) for at in range(len(bindings)))


@pytest.mark.parametrize("share", [0.9, 0.8])
def test_a_budget_decides_what_is_made_again(share):
    plan = spmd.plan(STEP, 1, memory=int(PEAK * share), profile=SLOW)
    assert plan.again and plan.memory["loss_adjoint"].peak <= PEAK * share
    assert FREE.cost < plan.cost < 1.5 * FREE.cost and plan.bound <= plan.cost
    assert f"{len(plan.again)} values are made again: a worker holds " in plan.notes[-1]
    name, after = next(iter(plan.again.items()))
    assert f"made again for who reads it from {after!r} on, and not held until then" in plan.explain(name)


def test_more_memory_is_never_slower_and_less_makes_more_again():
    plans = [spmd.plan(STEP, 1, memory=int(PEAK * share), profile=SLOW) for share in (1.0, 0.9, 0.8)]
    assert not plans[0].again
    assert [plan.cost for plan in plans] == sorted(plan.cost for plan in plans)


def test_the_memory_that_the_error_names_is_enough():
    with pytest.raises(ShardingError, match="no plan was found that fits into") as error:
        spmd.plan(STEP, 1, memory=PEAK // 8, profile=SLOW)
    named = int(re.search(r"memory=(\d+) or more", str(error.value))[1])
    assert spmd.plan(STEP, 1, memory=named, profile=SLOW).memory["loss_adjoint"].peak <= named < 0.75 * PEAK


def test_what_is_held_when_compiled_is_what_the_plan_says():
    whole, lean = spmd.shard(STEP, 1), spmd.shard(STEP, 1, memory=int(PEAK * 0.8), profile=SLOW)
    saved = FREE.memory["loss_adjoint"].activations - lean.plan.memory["loss_adjoint"].activations
    assert saved > 4 * BATCH * WIDTH
    assert held_when_compiled(whole) - held_when_compiled(lean) == pytest.approx(saved, abs=4 * BATCH * WIDTH)


@pytest.mark.parametrize("mesh", [1, Mesh(dp=2)], ids=str)
def test_numbers_are_the_same(mesh, alone):
    specs = {"loss_adjoint.x": P("dp", None)} if isinstance(mesh, Mesh) else {}
    free = spmd.plan(STEP, mesh, specs, profile=SLOW).memory["loss_adjoint"].peak
    sharded = spmd.shard(STEP, mesh, specs, memory=int(free * 0.8), profile=SLOW, verify=True)
    assert sharded.plan.again
    with spmd.workers(sharded) as w:
        _check(alone, w["loss_adjoint"](*GIVEN))


def test_a_plan_goes_through_json_and_lowers_again():
    sharded = spmd.shard(STEP, 2, {"loss_adjoint.active?": spmd.remat()})
    plan = spmd.Plan.from_json(sharded.plan.to_json())
    assert plan.again == sharded.plan.again and len(plan.again) == LAYERS
    tvm.ir.assert_structural_equal(spmd.lower(STEP, plan), sharded.mod)
    plan.again["loss_adjoint.nothing"] = "loss_adjoint.h0"
    with pytest.raises(ShardingError, match=r"it makes 'loss_adjoint.nothing' again"):
        spmd.lower(STEP, plan)


@pytest.mark.parametrize("mark", [False, True], ids=["by name", "marked"])
def test_what_is_asked_for_is_made_again(mark):
    mod, specs = training_step(mark), {} if mark else {"*.active?": spmd.remat()}
    plan = spmd.plan(mod, 1, specs)
    assert {f"loss_adjoint.active{i}" for i in range(LAYERS - 1)} <= plan.again.keys()
    assert plan.memory["loss_adjoint"].peak < PEAK
    if not mark:
        spmd.testing.assert_equivalent(mod, 2, specs, tolerance=1e-5)


class Marked(nn.Module):
    """A mark on a tensor of a module, read at one place."""

    def forward(self, x: nn.Tensor):
        return nn.op.silu(spmd.remat(nn.op.exp(x)))


def test_what_is_read_once_is_not_made_again_and_that_is_said():
    mod, _ = Marked().export_tvm({"forward": {"x": nn.spec.Tensor([4, 4], "float32")}})
    plan = spmd.plan(mod, 2)
    assert not plan.again and "forward: 'remat' not made again, as nothing reads it late" in plan.notes
    spmd.testing.assert_equivalent(mod, 2)


@I.ir_module
class Chance:
    """What must not run twice."""

    @R.function
    def main(x: R.Tensor((4, 4), "float32")):
        with R.dataflow():
            made = R.call_pure_packed("tests.chance", x, ty_args=R.Tensor((4, 4), "float32"))
            y = R.exp(R.exp(R.exp(made)))
            z = R.add(y, made)
            R.output(z)
        return z


@pytest.mark.parametrize(
    ("mod", "specs", "text"),
    [
        (
            Chance,
            {"main.made": spmd.remat()},
            "what it makes cannot be made again, and specs['main.made'] asks for it. Name what operators",
        ),
        (STEP, {"w1": spmd.remat()}, "specs['w1']: 'w1' is made by no operator, and cannot be made again. Name a value inside"),
        (STEP, {"loss_adjoint.activ": spmd.remat()}, "it matches no weight, input, value or result. Did you mean"),
    ],
)
def test_errors_say_what_cannot_be(mod, specs, text):
    with pytest.raises(ShardingError) as error:
        spmd.plan(mod, 2, specs)
    assert text in str(error.value)


@I.ir_module
class Turns:
    """A value that is held while a loop runs, and a value in each of its turns and branches."""

    @R.function
    def main(x: R.Tensor((64, 1), "float32"), n: R.Tensor((), "int32")) -> R.Tensor((64,), "float32"):
        cls = Turns
        held = R.exp(R.multiply(x, R.permute_dims(x)))
        start = R.sin(held)
        turned = cls.turn(n, start)
        return R.sum(R.multiply(turned, held), axis=[1])

    @R.function(private=True)
    def turn(n: R.Tensor((), "int32"), h: R.Tensor((64, 64), "float32")) -> R.Tensor((64, 64), "float32"):
        cls = Turns
        if R.greater(n, R.const(0, "int32")):
            active = R.tanh(h)
            twice = R.sin(R.exp(active))
            result = cls.turn(R.subtract(n, R.const(1, "int32")), R.add(twice, active))
        else:
            result = h
        return result


@I.ir_module
class Chosen:
    @R.function
    def main(x: R.Tensor((4, 4), "float32"), which: R.Tensor((), "bool")) -> R.Tensor((4, 4), "float32"):
        if which:
            active = R.tanh(x)
            result = R.add(R.sin(R.exp(active)), active)
        else:
            result = x
        return result


def test_values_of_loops_and_branches_are_refused_by_name():
    for mod, place in (
        (Turns, r"turn: relax.tanh 'active'.*as 'turn' is a loop"),
        (Chosen, r"main: relax.tanh 'active'.*in a branch of 'result'"),
    ):
        with pytest.raises(ShardingError, match=rf"{place}, and specs\['\*.active'\] asks for it.*outside of loops and branches"):
            spmd.plan(mod, 2, {"*.active": spmd.remat()})


def test_what_is_held_around_a_loop_is_made_again_where_memory_asks_for_it():
    free = spmd.plan(Turns, 1, profile=SLOW)
    peak = max(memory.peak for memory in free.memory.values())
    sharded = spmd.shard(Turns, 1, memory=peak - 1, profile=SLOW)
    assert "main.held" in sharded.plan.again and all(memory.peak < peak for memory in sharded.plan.memory.values())
    x = np.linspace(-1, 1, 4096, dtype="float32")[::64, None]
    with spmd.workers(Turns) as alone, spmd.workers(sharded) as w:
        np.testing.assert_array_equal(w["main"](x, np.int32(3)), alone["main"](x, np.int32(3)))
    with pytest.raises(ShardingError, match=r"main, memory of a worker: no plan .*memory=\d+ or more"):
        spmd.plan(Turns, 1, memory=peak // 8, profile=SLOW)


@pytest.mark.hypothesis
@settings(max_examples=1)
@given(st.data())
def test_making_again_never_changes_numbers(data):
    cases = []
    for number in range(6):
        mod = data.draw(programs(functions=1, operators=14, prefix=f"f{number}_"))
        functions = build_graph(mod).functions.values()
        able = [n.outputs[0].path for f in functions for n in f.nodes if can_be_made_again(f)(n)]
        asked = data.draw(st.sets(st.sampled_from(able))) if able else set()
        cases.append(Case(mod, data.draw(st.shared(meshes(), key="mesh")), {name: spmd.remat() for name in sorted(asked)}))
    assert assert_all_equivalent(cases) == len(cases)


def test_gradients_of_a_marked_model_are_those_without_marks(alone):
    with spmd.workers(training_step(True)) as marked:
        _check(alone, marked["loss_adjoint"](*GIVEN))
