"""Large constants are weights: which, under what names, and that a program with them is sharded as if they were arguments."""

import re

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.relax.frontend import nn
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import P, ShardingError
from spmd.explain.page import page_data
from spmd.ir.inline import inlined
from spmd.ir.lift import constants_of, lifted
from spmd.testing import FREE_LINKS, assert_equivalent
from tests.models.group_quant import QuantizedLinear, quantize


def array(*shape, seed=0, dtype="float32"):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) / shape[0] ** 0.5).astype(dtype)


UP, DOWN = relax.const(array(16, 64)), relax.const(array(64, 16))
SMALL, NUMBER = relax.const(array(16)), relax.const(2.0, "float32")
COLUMNS = {"main.matmul.0.constant": P(None, "tp"), "main.matmul.1.constant": P("tp", None)}


@I.ir_module
class Mlp:
    """Two products with weights that are constants, and constants that are too small to be any."""

    @R.function
    def main(x: R.Tensor((4, 16), "float32")):
        with R.dataflow():
            up = R.matmul(x, UP)
            active = R.nn.relu(up)
            down = R.matmul(active, DOWN)
            scaled = R.multiply(R.add(down, SMALL), NUMBER)
            R.output(scaled)
        return scaled


@I.ir_module
class Lifted:
    """What `Mlp` becomes, but for the attribute that holds the data."""

    @R.function
    def main(x: R.Tensor((4, 16), "float32"), u: R.Tensor((16, 64), "float32"), d: R.Tensor((64, 16), "float32")):
        with R.dataflow():
            up = R.matmul(x, u)
            active = R.nn.relu(up)
            down = R.matmul(active, d)
            scaled = R.multiply(R.add(down, SMALL), NUMBER)
            R.output(scaled)
        return scaled


def names(mod, least=1024):
    made = lifted(inlined(mod), least)
    relax.analysis.well_formed(made)
    return {gv.name_hint: [p.name for p in f.params] for gv, f in made.functions_items() if isinstance(f, relax.Function)}


def function(body, params, name="main", bb=None, **attrs):
    """A module of one function whose body is written by `body`."""
    bb = relax.BlockBuilder() if bb is None else bb
    params = [relax.Var(n, relax.TensorType(s, d)) for n, s, d in params]
    with bb.function(name, params, attrs=attrs or None):
        bb.emit_func_output(bb.emit(body(bb, *params)))
    return bb.finalize()


X = [("x", (4, 16), "float32")]


def test_large_constants_become_parameters():
    before = Mlp.script(show_meta=True)
    made = lifted(Mlp)
    (var,) = made.get_global_vars()
    tvm.ir.assert_structural_equal(made[var].without_attr("spmd.constants"), Lifted["main"])
    assert [c.same_as(d.value) for c, d in zip(constants_of(made["main"]), (UP, DOWN), strict=True)] == [True, True]
    assert Mlp.script(show_meta=True) == before
    assert names(Mlp) == {"main": ["x", "main.matmul.0.constant", "main.matmul.1.constant"]}


def test_a_module_without_large_constants_stays_as_it_is():
    assert lifted(Lifted) is Lifted
    assert lifted(Mlp, 10**6) is Mlp


def test_how_large_is_said():
    assert names(Mlp, 64)["main"] == ["x", "main.matmul.0.constant", "main.matmul.1.constant", "main.add.0.constant"]
    assert names(Mlp, 0) == names(Mlp, 64)  # what has no dimension is no weight


def test_constants_without_elements_stay():
    mod = function(lambda bb, x: op.concat([x, relax.const(np.zeros((0, 16), "float32"))], 0), X)
    assert names(mod, 0) == {"main": ["x"]}


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_sharded_like_weights(workers):
    sharded = assert_equivalent(Mlp, workers, COLUMNS)
    assert [str(s) for s in sharded.plan.params.values()] == ["[-, tp]", "[tp, -]"]
    assert sharded.plan.constants == list(COLUMNS)
    assert [tuple(map(int, p.ty.shape.values)) for p in sharded.mod["main"].params][1] == (16, -(-64 // workers))
    assert sharded.plan.memory["main"].weights == 2 * 16 * 4 * -(-64 // workers) + 64 + 4


def test_a_plan_is_that_of_weights_which_are_arguments():
    shapes = {"u": (1024, 4096), "d": (4096, 1024)}
    params = [("x", (64, 1024), "float32")]

    def body(bb, x, up, down):
        return op.matmul(bb.emit(op.nn.relu(bb.emit(op.matmul(x, up)))), down)

    constants = [relax.const(np.zeros(s, "float32")) for s in shapes.values()]
    arguments = function(body, [*params, *((n, s, "float32") for n, s in shapes.items())], num_input=1)
    bound = function(lambda bb, x: body(bb, x, *constants), params, num_input=1)
    first, second = (spmd.plan(mod, 2, profile="generic") for mod in (arguments, bound))
    assert list(first.params.values()) == list(second.params.values())
    assert first.predicted == second.predicted and len(first.collectives) == len(second.collectives) == 1
    assert first.memory == second.memory


def test_names():
    """A variable's own, else the operator that takes it, behind transposes and casts; equal layers are numbered."""

    def body(bb, x):
        for i in range(2):
            x = bb.emit(op.matmul(x, op.permute_dims(relax.const(array(16, 16, seed=i)))))
        x = bb.emit(op.matmul(x, op.astype(relax.const(array(16, 16, seed=2, dtype="float64")), "float32")))
        named = relax.Var("mine", UP.ty)
        bb.emit_normalized(relax.VarBinding(named, UP))
        return relax.Tuple([bb.emit(op.matmul(x, named)), DOWN])

    mod = relax.transform.Normalize()(function(body, X))
    expected = [*(f"main.matmul.{i}.constant" for i in range(3)), "main.mine", "main.tuple.0.constant"]
    assert names(mod)["main"] == ["x", *expected]
    assert_equivalent(mod, 2)


def test_names_that_are_taken():
    taken = relax.const(array(16, 16))
    mod = function(lambda bb, x, y: op.matmul(op.add(x, y), taken), [*X, ("main.matmul.0.constant", (4, 16), "float32")])
    assert names(mod)["main"] == ["x", "main.matmul.0.constant", "main.matmul.1.constant"]
    assert_equivalent(mod, 2)


def test_equal_constants_are_one_weight():
    """The same object, or the same bytes; not other bytes, another shape or type, or minus zero for zero."""
    zeros = np.zeros((16, 16), "float32")
    given = [UP, DOWN, relax.const(array(16, 64)), relax.const(zeros), relax.const(-zeros), relax.const(np.zeros((16, 16), "int32"))]

    def body(bb, x):
        for c in given:
            x = bb.emit(op.add(x, op.astype(op.sum(c), "float32")))
        return x

    mod = relax.transform.Normalize()(function(body, X))
    assert len(names(mod)["main"]) == 1 + 5


def test_functions_share():
    bb = relax.BlockBuilder()
    function(lambda bb, x: op.matmul(x, UP), X, "second", bb)
    mod = function(lambda bb, x: op.matmul(x, relax.const(UP.value.numpy())), X, "first", bb, num_input=1)
    assert names(mod) == {n: ["x", "first.matmul.0.constant"] for n in ("first", "second")}
    plan = assert_equivalent(mod, 2, {"first.matmul.0.constant": P(None, "tp")}).plan
    assert plan.memory["first"].weights == 16 * 64 * 4 // 2


def test_branches_and_private_functions():
    @I.ir_module
    class Branches:
        @R.function(private=True)
        def inner(x: R.Tensor((4, 16), "float32")) -> R.Tensor((4, 64), "float32"):
            y = R.matmul(x, UP)
            return y

        @R.function
        def main(more: R.Tensor((), "bool"), x: R.Tensor((4, 16), "float32")):
            cls = Branches
            if more:
                a = cls.inner(x)
                y = R.matmul(a, DOWN)
            else:
                b = R.matmul(x, UP)
                y = R.matmul(R.nn.relu(b), DOWN)
            return y

    assert [len(params) for params in names(Branches).values()] == [2, 4]
    assert_equivalent(Branches, 2, {"inner.matmul.0.constant": P(None, "tp")})


def test_a_function_that_calls_itself_is_handed_its_constants():
    square = relax.const(array(16, 16))

    @I.ir_module
    class Loop:
        @R.function(private=True)
        def layer(i: R.Tensor((), "int32"), h: R.Tensor((4, 16), "float32")) -> R.Tensor((4, 16), "float32"):
            cls = Loop
            end: R.Tensor((), "bool") = R.greater_equal(i, R.const(3, "int32"))
            if end:
                out: R.Tensor((4, 16), "float32") = h
            else:
                a: R.Tensor((4, 16), "float32") = R.matmul(h, square)
                j: R.Tensor((), "int32") = R.add(i, R.const(1, "int32"))
                out: R.Tensor((4, 16), "float32") = cls.layer(j, a)
            return out

        @R.function
        def main(x: R.Tensor((4, 16), "float32")):
            cls = Loop
            y: R.Tensor((4, 16), "float32") = cls.layer(R.const(0, "int32"), x)
            z: R.Tensor((4, 64), "float32") = R.matmul(y, UP)
            return z

    assert names(Loop) == {
        "layer": ["i", "h", "layer.matmul.0.constant"],
        "main": ["x", "main.matmul.0.constant", "layer.matmul.0.constant"],
    }
    assert_equivalent(Loop, 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "int8", "uint32", "bool", "float64"])
def test_types(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    table = relax.const((array(32, 64) * 8).astype(kind) if kind.kind != "u" else np.arange(2048, dtype=kind).reshape(32, 64), dtype)
    mod = function(lambda bb, i: op.take(table, i, 0), [("i", (3,), "int32")])
    sharded = assert_equivalent(mod, 2, {"main.take.0.constant": P(None, "tp")})
    assert sharded.partition({}, rank=1)["main.take.0.constant"].dtype == kind


def test_quantized_constants():
    """A packed weight and its scales, bound; the kernel that decodes them is cut with them."""
    mod, _ = QuantizedLinear(64, 128).export_tvm({"forward": {"x": nn.spec.Tensor([4, 128], "float16")}})
    packed, scale = quantize(array(64, 128, dtype="float16"))
    bound = relax.transform.BindParams("forward", {"q_weight": packed, "q_scale": scale})(mod)
    specs = {"forward.dequantize.*": P("tp", None)}
    sharded = assert_equivalent(bound, 2, specs, lift=256)
    assert [leaf.shape for leaf in sharded.plan.functions["forward"].constants] == [(64, 16), (64, 4)]
    (x,) = spmd.testing.equivalence.random_arguments(sharded.plan.functions["forward"].params, "forward", 0)
    with spmd.workers(sharded) as bound_workers, spmd.workers(spmd.shard(mod, 2, {"q_*": P("tp", None)})) as workers:
        np.testing.assert_array_equal(bound_workers["forward"](x), workers["forward"](x, packed, scale))


def test_callers_give_their_own_arguments_only():
    x = array(4, 16)
    with spmd.workers(spmd.shard(Mlp, 2, COLUMNS)) as w:
        assert len(w.signatures["main"].params) == 1
        with pytest.raises(ShardingError, match=re.escape("main(): it takes 1 arguments ('x'), and got 2")):
            w["main"](x, x)
        first, second = w["main"](x), w["main"](x)
    np.testing.assert_array_equal(first, second)


def test_a_program_of_one_worker_runs_alone():
    """What was lifted stays with the module, also where nothing else is known of it."""
    x = array(4, 16)
    with spmd.workers(spmd.shard(Mlp, 1).mod) as one, spmd.workers(Mlp) as whole:
        np.testing.assert_allclose(one["main"](x), whole["main"](x), rtol=1e-6)


def test_partition_gives_all_that_a_worker_needs():
    """Without `spmd.workers`: the function of a worker takes its own parameters, and then these."""
    sharded = spmd.shard(Mlp, 2, {**COLUMNS, "main.return": P(None, "tp")}, profile=FREE_LINKS)
    shards = sharded.partition({})
    assert [{n: s.shape for n, s in shard.items()} for shard in shards] == 2 * [
        {"main.matmul.0.constant": (16, 32), "main.matmul.1.constant": (32, 16)}
    ]
    np.testing.assert_array_equal(shards[1]["main.matmul.1.constant"], DOWN.value.numpy()[32:])
    with pytest.raises(
        ShardingError, match=r"weight 'main.matmul.0.constant' is a constant of the program. Leave it out: its value is known"
    ):
        sharded.partition({"main.matmul.0.constant": UP.value.numpy()})


def test_plans_are_saved_without_the_data():
    plan = spmd.plan(Mlp, 2, COLUMNS, lift=64)
    text = plan.to_json()
    assert len(text) < 20_000
    loaded = spmd.Plan.from_json(text)
    assert loaded == plan and loaded.lift == 64
    made = spmd.ShardedModule(spmd.lower(Mlp, loaded), loaded)
    x = array(4, 16)
    with spmd.workers(made) as w, spmd.workers(Mlp) as whole:
        np.testing.assert_allclose(w["main"](x), whole["main"](x), rtol=1e-5, atol=1e-6)


def test_passes_between_and_after_the_stages():
    passes = [spmd.transform.Propagate(2, COLUMNS), spmd.transform.Lower(), relax.transform.LegalizeOps(), relax.transform.FoldConstant()]
    made = spmd.transform.sharded(tvm.transform.Sequential(passes)(Mlp))
    x = array(4, 16)
    with spmd.workers(made) as w, spmd.workers(Mlp) as whole:
        np.testing.assert_allclose(w["main"](x), whole["main"](x), rtol=1e-5, atol=1e-6)


def test_a_pass_that_loses_the_data():
    made = spmd.shard(Mlp, 2, COLUMNS)
    (var,) = [gv for gv in made.mod.get_global_vars() if gv.name_hint == "main"]
    bare = tvm.IRModule({**dict(made.mod.functions_items()), var: made.mod[var].without_attr("spmd.constants")})
    what = "function 'main': its plan has 2 constants of the program, and its attribute spmd.constants holds 0. Lower it again, and keep"
    with pytest.raises(ShardingError, match=re.escape(what)):
        spmd.workers(spmd.ShardedModule(bare, made.plan))


def test_a_plan_for_other_constants():
    with pytest.raises(
        ShardingError, match=re.escape("plan for 'main': it has 'main.matmul.0.constant' float32[16, 64] where the module has")
    ):
        spmd.lower(Lifted, spmd.plan(Mlp, 2))


def test_what_a_plan_says():
    plan = spmd.plan(Mlp, 2, COLUMNS)
    assert "  float32 16 x 64, a constant of the program, each of 2 workers holds 16 x 32: 2,048 bytes of 4,096" in plan.explain(
        "main.matmul.0.constant"
    )
    assert "main.matmul.0.constant  [-, tp]\n  main.matmul.1.constant  [tp, -]" in plan.explain()
    assert [r.name for r in plan.report().weights] == 2 * ["main.matmul.*.constant"]
    assert "  because constants of less than `lift` bytes stay in the program, and are whole" in plan.explain("main.constant")
    assert not [note for note in plan.notes if "constant" in note]


def test_a_note_where_large_constants_stay():
    plan = spmd.plan(Mlp, 2, lift=10**9)
    note = "2 constants of 8,192 bytes in all are whole on every worker, as lift=1000000000 leaves them there; make them arguments"
    assert [n for n in plan.notes if n.startswith(note)] and not plan.params
    assert not spmd.plan(Mlp, 1, lift=10**9).notes


def test_a_budget_that_large_constants_exceed():
    assert spmd.plan(Mlp, 4, memory=4500).memory["main"].peak <= 4500
    what = "8.26 kB of it are constants that stay in the program, whole: make them arguments, or `lift` less, to have them cut."
    with pytest.raises(ShardingError, match=re.escape(what)):
        spmd.plan(Mlp, 4, memory=4500, lift=8192)


def test_a_note_on_functions_within_functions():
    @I.ir_module
    class Inner:
        @R.function
        def main(x: R.Tensor((4, 16), "float32")):
            @R.function
            def inside(y: R.Tensor((4, 16), "float32")) -> R.Tensor((4, 64), "float32"):
                z: R.Tensor((4, 64), "float32") = R.matmul(y, UP)
                return z

            out: R.Tensor((4, 64), "float32") = inside(x)
            return out

    assert lifted(Inner) is Inner
    note = "1 constants of 4,096 bytes in all are whole on every worker, as functions within functions, and those passed on as values, keep"
    assert [n for n in spmd.plan(Inner, 2).notes if n.startswith(note)]


def test_a_constant_that_stays_is_counted_once():
    mod = function(lambda bb, x: op.add(op.add(x, SMALL), op.multiply(x, SMALL)), X)
    mod = relax.transform.Normalize()(mod)
    assert spmd.plan(mod, 2).memory["main"].weights == 64


def test_ready_made_specs_name_constants():
    specs = spmd.presets.fsdp(Mlp, "tp")
    assert [name for name in specs if name.startswith("main.matmul")] == list(COLUMNS)


def test_torch_binds_its_parameters():
    torch = pytest.importorskip("torch")
    from tvm.relax.frontend.torch import from_exported_program

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)

        def forward(self, x):
            return self.down(torch.relu(self.up(x)))

    net, x = Net().eval(), torch.from_numpy(array(4, 32))
    mod = from_exported_program(torch.export.export(net, (x,)), keep_params_as_input=False)
    sharded = spmd.shard(mod, 2, {"main.matmul.0.constant": P("tp", None)})
    assert str(sharded.plan.params["main.matmul.1.constant"]) == "[-, tp]"
    with spmd.workers(sharded) as w:
        result = w["main"](x.numpy())
    found = result[0] if isinstance(result, tuple) else result
    np.testing.assert_allclose(found, net(x).detach().numpy(), rtol=1e-4, atol=1e-6)


def test_the_passes_take_constants():
    passes, x = spmd.transform, array(4, 16)
    in_two = tvm.transform.Sequential([passes.Propagate(2, COLUMNS, lift=64), passes.Lower()])(Mlp)
    with spmd.workers(spmd.shard(Mlp, 2, COLUMNS, lift=64)) as w:
        expected = w["main"](x)
    for mod in (in_two, passes.Shard(2, COLUMNS, lift=64)(Mlp)):
        with spmd.workers(passes.sharded(mod)) as w:
            np.testing.assert_array_equal(w["main"](x), expected)


def test_the_page_says_what_were_constants():
    data = page_data(spmd.plan(Mlp, 2, COLUMNS, lift=64))
    roles = {name: role for name, role, *_ in data["tensors"]}
    assert roles["main.matmul.0.constant"] == "constant"
    assert data["assumed"] == []
