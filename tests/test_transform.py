"""The stages as passes: what they give, what travels between them, and what stands around them in a Sequential."""

import gc
import weakref

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.ir.instrument import DumpIR, PassTimingInstrument, pass_instrument
from tvm.ir.transform import PassContext, Sequential, module_pass
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, ShardingError
from spmd.testing import difference
from spmd.transform import Lower, Propagate, Shard, plan_of, sharded, with_plan
from tests.programs import Mlp, Two

COLUMNS = {"w1": P(None, "tp"), "w2": P("tp", None)}


@I.ir_module
class Local:
    """`Mlp` on each of two workers."""

    @R.function
    def main(x: R.Tensor((4, 16), "float32"), w1: R.Tensor((16, 16), "float32"), w2: R.Tensor((16, 16), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            up = R.matmul(x, w1)
            active = R.nn.relu(up)
            down = R.matmul(active, w2)
            total = R.spmd.all_reduce(down, axis="tp", kind="sum", value="down", workers=2)
            gv = total
            R.output(gv)
        return gv


def run(mod):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for shape in ((4, 16), (16, 32), (32, 16))]
    with spmd.workers(mod) as w:
        return w["main"](*arrays)


def test_a_module_in_a_module_out():
    lowered = Shard(2, COLUMNS)(Mlp)
    assert set(lowered.attrs.keys()) == {"spmd.plan", "spmd.lowered"}
    tvm.ir.assert_structural_equal(sharded(lowered).mod, Local)
    assert plan_of(lowered) == sharded(lowered).plan == spmd.plan(Mlp, 2, COLUMNS)


@pytest.mark.parametrize(
    ("mod", "mesh", "specs", "options"),
    [
        (Mlp, 2, COLUMNS, {}),
        (Two, spmd.Mesh(tp=2), {"second.x": P("tp", None), "second.return*": P(...)}, {"divisible": {"n": 4}, "sizes": {"n": 8}}),
        (Mlp, spmd.Mesh(dp=2, tp=2), None, {"profile": spmd.testing.FREE_LINKS, "memory": 1e6, "cost": type("Own", (spmd.Cost,), {})}),
    ],
    ids=["specs", "sizes", "cost"],
)
def test_as_passes_it_is_as_shard_is(mod, mesh, specs, options):
    wanted = spmd.shard(mod, mesh, specs, **options)
    for one in (Shard(mesh, specs, **options), Sequential([Propagate(mesh, specs, **options), Lower()])):
        found = sharded(one(mod))
        assert found.plan == wanted.plan and found.mesh == wanted.mesh
        tvm.ir.assert_structural_equal(found.mod, wanted.mod)


def test_propagate_attaches_the_plan_and_changes_nothing_else():
    before = tvm_ffi.structural_hash(Mlp)
    planned = Propagate(2, COLUMNS)(Mlp)
    assert list(planned.attrs.keys()) == ["spmd.plan"]
    tvm.ir.assert_structural_equal(planned["main"], Mlp["main"])
    assert tvm_ffi.structural_hash(Mlp) == before and not Mlp.attrs
    assert [str(s) for s in plan_of(planned).params.values()] == ["[-, tp]", "[tp, -]"]
    assert plan_of(planned).alternatives("main.active"), "its search is still there"


def test_hints_are_obeyed():
    builder = relax.BlockBuilder()
    x, w = relax.Var("x", relax.TensorType((4, 16), "float32")), relax.Var("w", relax.TensorType((16, 32), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            y = builder.emit_output(spmd.hint(relax.op.matmul(x, w), P(None, "tp")))
        builder.emit_func_output(y)
    assert [c.kind for c in plan_of(Shard(2)(builder.finalize())).collectives] == ["all_gather"]


def test_between_passes_of_tvm():
    passes = [
        *(relax.transform.CanonicalizeBindings(), Propagate(2, COLUMNS), relax.transform.CanonicalizeBindings()),
        *(Lower(), relax.transform.LegalizeOps(), relax.transform.FuseOps(), relax.transform.FuseTIR()),
    ]
    found = sharded(Sequential(passes)(Mlp))
    assert found.plan == spmd.plan(Mlp, 2, COLUMNS)
    assert "R.spmd" not in found.mod.script() and "R.call_dps_packed" in found.mod.script()
    assert not difference(run(Mlp), run(found))


def test_instruments_see_both():
    seen = []

    @pass_instrument
    class Names:
        def run_before_pass(self, mod, info):
            seen.append(info.name)

    timing = PassTimingInstrument()
    with PassContext(instruments=[timing, Names()]):
        Sequential([Propagate(2, COLUMNS), Lower()])(Mlp)
        Shard(2, COLUMNS)(Mlp)
        text = timing.render()
    ours = ["spmd.Propagate", "spmd.Lower", "spmd.Shard"]
    assert [name for name in seen if name.startswith("spmd.")] == ours and all(f"{name}: " in text for name in ours)


@module_pass(opt_level=0, name="test.Whole")
def whole(mod, _):
    """A pass of a user: the second weight stays whole."""
    before = plan_of(mod)
    return with_plan(mod, spmd.plan(mod, before.mesh, {**COLUMNS, "w2": P(None, None)}))


def test_a_pass_between_them_replaces_the_plan():
    planned = Propagate(2, COLUMNS)(Mlp)
    found = sharded(Sequential([whole, Lower()])(planned))
    assert str(found.plan.params["w2"]) == "[-, -]" and str(plan_of(planned).params["w2"]) == "[tp, -]"
    assert tuple(found.mod["main"].params[2].ty.shape) == (32, 16)
    assert not difference(run(Mlp), run(found))


def test_a_pass_between_them_may_change_what_no_plan_decides_on():
    @module_pass(opt_level=0, name="test.Mark")
    def mark(mod, _):
        return relax.transform.CanonicalizeBindings()(tvm.IRModule({"main": mod["main"].with_attr("mark", "mine")}, attrs=mod.attrs))

    found = sharded(Sequential([Propagate(2, COLUMNS), mark, Lower()])(Mlp))
    assert found.mod["main"].attrs["mark"] == "mine"
    assert not difference(run(Mlp), run(found))


def test_a_pass_between_them_may_refuse_the_plan():
    @module_pass(opt_level=0, name="test.NoSums")
    def no_sums(mod, _):
        for c in plan_of(mod).collectives:
            raise ShardingError(f"{c.function}: {c.value!r}", "the house sums nothing", "Split by columns.")
        return mod

    with pytest.raises(ShardingError, match=r"^main: 'down': the house sums nothing\. Split by columns\."):
        Sequential([Propagate(2, COLUMNS), no_sums, Lower()])(Mlp)


def test_a_pass_between_them_may_not_change_operators():
    @module_pass(opt_level=0, name="test.Tanh")
    def tanh(mod, _):
        return with_plan(tvm.script.from_source(Mlp.script().replace("R.nn.relu", "R.tanh")), plan_of(mod))

    with pytest.raises(ShardingError, match=r"it has relax\.nn\.relu 'active' of main\.up where the module has relax\.tanh 'active'"):
        Sequential([Propagate(2, COLUMNS), tanh, Lower()])(Mlp)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Lower()(Mlp), r"module: it has no plan\. Run spmd\.transform\.Propagate\(mesh\) on it first"),
        (lambda: plan_of(Mlp), r"module: it has no plan\."),
        (lambda: sharded(Mlp), r"module: it has no plan\."),
        (lambda: sharded(Propagate(2, COLUMNS)(Mlp)), r"module: it is planned and not lowered\. Run spmd\.transform\.Lower\(\)"),
        (lambda: Lower()(Shard(2, COLUMNS)(Mlp)), r"module: it is the program of one worker already\. Start from the module"),
        (lambda: Shard(2, COLUMNS)(Shard(2, COLUMNS)(Mlp)), r"module: it is the program of one worker already\."),
        (lambda: with_plan(Shard(2, COLUMNS)(Mlp), spmd.plan(Mlp, 2)), r"module: it is the program of one worker already\."),
        (
            lambda: Lower()(with_plan(Two, spmd.plan(Mlp, 2))),
            r"plan: it is for the functions \['main'\], the module has \['first', 'second'\]",
        ),
        (lambda: Shard(2, {"w3": P(None)})(Mlp), r"specs\['w3'\]: it matches no weight"),
    ],
    ids=["lower", "plan_of", "sharded", "not lowered", "lowered twice", "sharded twice", "planned again", "another module", "specs"],
)
def test_what_cannot_be_says_so(ask, said):
    with pytest.raises(ShardingError, match=said):
        ask()


def test_what_comes_out_is_saved_as_what_shard_gives_is():
    found = sharded(Shard(2, COLUMNS)(Mlp.with_attr("made_by", "me")))
    assert list(found.mod.attrs.keys()) == ["made_by"]
    tvm.ir.assert_structural_equal(tvm.ir.load_json(tvm.ir.save_json(found.mod)), found.mod)
    assert spmd.Plan.from_json(found.plan.to_json()) == found.plan


def test_it_prints_while_it_has_a_plan(tmp_path):
    with PassContext(instruments=[DumpIR(str(tmp_path))]):
        Sequential([Propagate(2, COLUMNS), Lower()])(Mlp)
    dumped = [path.read_text() for path in sorted(tmp_path.rglob("*spmd*"))]
    assert len(dumped) == 2 and all("spmd.plan" in text and len(text) < 2000 for text in dumped)


def test_a_plan_goes_with_its_module():
    lowered = Shard(2, COLUMNS)(Mlp)
    plan = weakref.ref(plan_of(lowered))
    gc.collect()
    assert plan() is not None
    del lowered
    gc.collect()
    assert plan() is None
