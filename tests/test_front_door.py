"""Mistakes of a first call: what the error says to write instead, and what is taken as it is meant."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.frontend import nn
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, ShardingError
from spmd.testing import FREE_LINKS
from tests.programs import Mlp, Two

SPLIT = {"w1": P(None, "tp"), "w2": P("tp", None)}


@I.ir_module
class Rows:
    """Nothing is sent where its rows are split."""

    @R.function
    def main(x: R.Tensor((8, 4), "float32")):
        with R.dataflow():
            y = R.tanh(x)
            R.output(y)
        return y


class Network(nn.Module):
    """One layer."""

    def __init__(self):
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.layer(x)


def exported():
    return Network().export_tvm({"forward": {"x": nn.spec.Tensor([2, 4], "float32")}})


def sharded():
    return spmd.shard(Mlp, 2, SPLIT)


def rows():
    """A program of a worker that has no collective."""
    return spmd.shard(Rows, 2, {"main.x": P("tp", None), "main.return": P("tp", None)}).mod


VAR = relax.Var("x", relax.TensorType([2], "float32"))

ERRORS = {
    "a pair": (
        lambda: spmd.shard(exported(), 2),
        r"shard\(\), mod: it takes an IRModule, and got a tuple\. export_tvm gives a pair",
    ),
    "a network": (lambda: spmd.plan(Network(), 2), r"got a Network\. Export it first: mod, params = network\.export_tvm"),
    "None": (lambda: spmd.shard(None, 2), r"it takes an IRModule, and got None\. A network of tvm\.relax\.frontend\.nn gives one"),
    "a path": (lambda: spmd.shard("model.onnx", 2), r"got str 'model\.onnx'\. Read the model first"),
    "a function": (lambda: spmd.shard(Mlp["main"], 2), r"got a Function\. Put the function into one: tvm\.IRModule"),
    "a plan": (lambda: spmd.shard(spmd.plan(Mlp, 2), 2), r"got a Plan\. This is a plan: write spmd\.lower\(mod, plan\)"),
    "what is sharded": (lambda: spmd.shard(sharded(), 2), r"got a ShardedModule\. This is sharded already"),
    "a worker's": (
        lambda: spmd.shard(sharded().mod, 2),
        r"of one worker already, it has the collective spmd\.all_reduce",
    ),
    "a worker's, legal": (
        lambda: spmd.plan(relax.transform.LegalizeOps()(sharded().mod), 2),
        r"already, it has the collective spmd\.all_reduce",
    ),
    "a worker's, silent": (
        lambda: spmd.plan(rows(), 4),
        r"'main': .* one worker already, it was sharded over 2",
    ),
    "a worker's, alone": (lambda: spmd.workers(sharded().mod), r"workers\(\), function 'main': .* Pass what spmd\.shard\(\) gave"),
    "a worker's, alone and silent": (lambda: spmd.workers(rows()), r"it was sharded over 2 workers\. Pass what spmd\.shard\(\) gave"),
    "workers of a plan": (lambda: spmd.workers(spmd.plan(Mlp, 2)), r"got a Plan\. Pass what spmd\.shard\(\) gave"),
    "workers of None": (lambda: spmd.workers(None), r"workers\(\), sharded: .* got None\. Write spmd\.workers\(spmd\.shard\(mod, mesh\)\)"),
    "a target": (lambda: spmd.workers(Mlp, target="cudaa"), r"workers\(\), target: target 'cudaa' is not one that TVM knows"),
    "lower without a plan": (
        lambda: spmd.lower(Mlp, 2),
        r"it takes a Plan, and got int 2\. Write spmd\.lower\(mod, ",
    ),
    "memory as text": (lambda: spmd.plan(Mlp, 2, memory="24GB"), r"plan\(\), memory: .* got '24GB'\. Write memory=24e9, a number"),
    "memory in powers of two": (lambda: spmd.plan(Mlp, 2, memory="24 GiB"), r"Write memory=24 \* 2\*\*30"),
    "memory as junk": (lambda: spmd.plan(Mlp, 2, memory="much"), r"Write memory=24e9"),
    "no memory": (lambda: spmd.plan(Mlp, 2, memory=0), r"a worker cannot have 0 bytes.*memory=24e9"),
    "memory nobody knows": (lambda: spmd.plan(Mlp, 2, memory=float("nan")), r"a worker cannot have nan bytes"),
    "a profile by position": (lambda: spmd.shard(Mlp, 2, "h100"), r"got str 'h100'\. A profile is named: write profile='h100'"),
    "a profile fourth": (lambda: spmd.shard(Mlp, 2, None, "h100"), r"shard\(\): too many positional arguments.*profile="),
    "a name misspelt": (lambda: spmd.shard(Mlp, 2, memroy=1e9), r"unexpected keyword argument 'memroy'. Did you mean 'memory'"),
    "a profile misspelt": (lambda: spmd.shard(Mlp, 2, profile="h1000"), r"there is no hardware profile 'h1000'.*Did you mean 'h100'"),
    "specs as a tuple": (lambda: spmd.shard(Mlp, 2, {"w1": (None, "tp")}), r"specs\['w1'\]: .* is no spmd\.P\. Write P\(None, 'tp'\)"),
    "one spec": (lambda: spmd.shard(Mlp, 2, P("tp")), r"it takes a mapping from names to P, and got a P"),
    "a mesh as a shape": (
        lambda: spmd.plan(Mlp, (2, 4)),
        r"and got a tuple \(2, 4\)\. Write Mesh\(dp=2, tp=4\)",
    ),
    "a mesh by position": (lambda: Mesh(2), r"Mesh\(\): too many positional arguments\. Write Mesh\(tp=2\)"),
    "half a worker": (lambda: spmd.plan(Mlp, 1.5), r"got float 1\.5\. Write Mesh\(tp=2\)"),
    "an axis with a blank": (lambda: Mesh(**{"a b": 2}), r"an axis has the name 'a b'.*letters, digits and _"),
    "an axis with no name": (lambda: Mesh(**{"": 2}), r"an axis has the name ''"),
    "an axis like two": (lambda: Mesh(**{"tp+dp": 2, "tp": 2}), r"an axis has the name 'tp\+dp'"),
    "a cost that is made": (lambda: spmd.plan(Mlp, 2, cost=5), r"cost: it takes a subclass of spmd\.Cost, and got int 5"),
    "a size misspelt": (
        lambda: spmd.plan(Two, 2, sizes={"nn": 4}),
        r"sizes: .* the name 'nn'\. The module has 'n'\. Did you mean 'n'",
    ),
    "a divisor misspelt": (
        lambda: spmd.plan(Two, 2, divisible={"m": 4}),
        r"divisible: .* the name 'm'\. The module has 'n'",
    ),
    "a size below 0": (
        lambda: spmd.plan(Two, 2, sizes={"n": -1}),
        r"sizes\['n'\]: it takes a whole number, 0 or more, and got int -1",
    ),
    "half a size": (lambda: spmd.plan(Two, 2, sizes={"n": 2.5}), r"sizes\['n'\]: it takes a whole number, 0 or more, and got float 2\.5"),
    "a hint of no spec": (
        lambda: spmd.hint(relax.Var("x", relax.TensorType([2], "float32")), "tp"),
        r"spmd\.hint\(\): str 'tp' is no spmd\.P",
    ),
    "a hint on no value": (lambda: spmd.hint(np.zeros(2), P("tp")), r"spmd\.hint\(\): it takes a value of the program, and got a ndarray"),
    "a rule in the wrong place": (
        lambda: spmd.rule("mine.y", "m -> m"),
        r"'m -> m' stands where .* Write spmd\.rule\(name, expression='m -> m'\)",
    ),
    "an empty rule": (lambda: spmd.rule("mine.y", expression=""), r"rule '': it has no '->'"),
    "a rule of nothing": (
        lambda: spmd.rule("relax.matmull", expression="m -> m"),
        r"no operator 'relax\.matmull'\. Did you mean 'relax\.matmul'",
    ),
    "a rule without an argument": (
        lambda: spmd.rule("mine.y")(lambda: None),
        r"its function is called with one argument",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_the_error_says_what_to_write(kind):
    wrong, text = ERRORS[kind]
    with pytest.raises(ShardingError, match=text):
        wrong()


def test_what_is_meant_is_taken():
    wanted = spmd.plan(Mlp, 2)
    for mesh in (np.int64(2), {"tp": 2}, {"tp": np.int32(2)}, Mesh(tp=np.int8(2))):
        found = spmd.plan(Mlp, mesh)
        assert found == wanted and type(found.mesh.axes["tp"]) is int
    assert Mesh(tp=4, hosts=np.int64(2), devices=np.arange(4)) == Mesh(tp=4, hosts=2, devices=[0, 1, 2, 3])
    assert spmd.plan(Two, 2, sizes={"n": np.int64(4)}).predicted == spmd.plan(Two, 2, sizes={"n": 4}).predicted
    assert spmd.plan(Mlp, 2, memory=np.float64(1e9)) == spmd.plan(Mlp, 2, memory=1e9)


def test_what_is_sharded_says_so_after_passes():
    """Functions keep what says that they are one worker's, whatever becomes of the module."""
    passed = relax.transform.CanonicalizeBindings()(tvm.IRModule({"main": rows()["main"]}))
    with pytest.raises(ShardingError, match="it was sharded over 2 workers"):
        spmd.shard(passed, 2)
    assert spmd.shard(spmd.shard(Mlp, 1).mod, 2, SPLIT).mod.script() == sharded().mod.script(), "of one worker nothing is a part"


def test_lowering_twice_is_lowering_once():
    plan = spmd.plan(Mlp, 2, SPLIT, profile=FREE_LINKS)
    assert spmd.lower(Mlp, plan).script() == spmd.lower(Mlp, plan).script()


def named(weight, value="y", function="main"):
    """A product with a weight of this name."""
    bb = relax.BlockBuilder()
    x, w = relax.Var("x", relax.TensorType([4, 8], "float32")), relax.Var(weight, relax.TensorType([8, 6], "float32"))
    with bb.function(function, [x, w], attrs={"num_input": 1}):
        with bb.dataflow():
            out = bb.emit_output(relax.op.matmul(x, w), value)
        bb.emit_func_output(out)
    return bb.finalize()


@pytest.mark.parametrize(
    ("weight", "text"),
    {
        "main.x": "'main.x': .*weight 'main.x'.*input 'x' of 'main'|input 'x' of 'main' and weight 'main.x'",
        "main.y": "weight 'main.y'",
        "main.return": "weight 'main.return' and the result of 'main' have this one name. Rename one of them",
        "main": "weight 'main' and the result of 'main' have this one name",
    }.items(),
)
def test_two_things_of_one_name(weight, text):
    with pytest.raises(ShardingError, match=text):
        spmd.plan(named(weight), 2)


@pytest.mark.parametrize("name", ["w#2", "w 1", "w[0]", "wé.*", "w->x", "[-, tp]", "w|x", "a/b", "?", "-"])
def test_names_that_look_like_something_else(name):
    """They are names, to the letter, in specs and in files."""
    mod = named(name)
    plan = spmd.plan(mod, 2, {name: P(None, "tp")}, profile=FREE_LINKS)
    assert str(plan.params[name]) == "[-, tp]"
    again = spmd.Plan.from_json(plan.to_json())
    assert again == plan and spmd.lower(mod, again).script() == spmd.lower(mod, plan).script()


def test_numbers_after_names_take_no_name_that_is_there():
    """Two inputs of one name, and one that has the name that the second would get."""
    bb = relax.BlockBuilder()
    params = [relax.Var(n, relax.TensorType([4], "float32")) for n in ("w", "w", "w#2")]
    with bb.function("main", params, attrs={"num_input": 0}):
        with bb.dataflow():
            out = bb.emit_output(relax.op.add(relax.op.add(params[0], params[1]), params[2]))
        bb.emit_func_output(out)
    mod = relax.transform.Normalize()(bb.finalize())
    assert len(spmd.plan(mod, 2).params) == 3
