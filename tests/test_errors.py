"""Each error by its text, where no test of its own room asks for it: what a user does, and what the error says."""

import json
import pickle
import re
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.script import parser as D
from tvm.script import ir as I
from tvm.script import relax as R

import spmd
from spmd import Mesh, P, Sharding, ShardingError
from spmd.annotate.importers import from_dist, from_jax, from_mlc
from spmd.collectives import dialect
from spmd.collectives.backend import register_backend
from spmd.lower.forms.context import run_form
from spmd.placement.sharding import Segment, Split
from spmd.program.build import build_graph
from spmd.rules.expression import bind
from spmd.testing.oracle import operator_of
from tests.programs import Mlp

SPLIT = {"w1": P(None, "tp"), "w2": P("tp", None)}
PLAN = spmd.plan(Mlp, 2, SPLIT)
X = relax.TensorType([4], "float32")


@I.ir_module
class Typed:
    """A weight of two functions that is split in one of them."""

    I.module_global_infos({"mesh": [D.device_mesh((2,), I.Range(0, 2))]})

    @R.function
    def first(w: D.DTensor((4,), "float32", "mesh[0]", "S[0]")):
        R.func_attr({"num_input": 0})
        y = R.tanh(w)
        return y

    @R.function
    def second(w: D.DTensor((4,), "float32", "mesh[0]", "R")):
        R.func_attr({"num_input": 0})
        y = R.tanh(w)
        return y


class Slow(spmd.Cost):
    """Times that are none."""

    def compute_time(self, work):
        return -1.0


@I.ir_module
class Pairs:
    """A function of a pair, and one of a pair of other shapes."""

    @R.function
    def first(x: R.Tuple(R.Tensor((4,), "float32"), R.Tensor((6,), "float32"))):
        with R.dataflow():
            y = R.tanh(x[0])
            z = R.tanh(x[1])
            R.output(y, z)
        return y, z

    @R.function
    def second(x: R.Tuple(R.Tensor((6,), "float32"), R.Tensor((4,), "float32"))):
        with R.dataflow():
            y = R.tanh(x[0])
            R.output(y)
        return y


def split(size, unit=1):
    """A dimension of this size over `tp`."""
    return Split(("tp",), (Segment(size, unit),))


def lowered(sharding):
    """`Mlp` by a plan that keeps `up` otherwise."""
    return spmd.lower(Mlp, replace(PLAN, values={**PLAN.values, "main.up": sharding}))


def lacking():
    """`Mlp` by a plan that says nothing of `up`."""
    return spmd.lower(Mlp, replace(PLAN, values={n: s for n, s in PLAN.values.items() if n != "main.up"}))


def dealt_out_by(size):
    """`Lengths` by a plan that splits `n`, which 6 divides, by as many elements over `tp`."""
    sharding = Sharding((Split(("tp",), (Segment(size),), symbolic=True),))
    specs = {"main.x": P("tp"), "main.y": P("tp")}
    plan = spmd.plan(Lengths, 2, specs, divisible={"n": 6})
    return spmd.lower(Lengths, replace(plan, values={**plan.values, "main.z": sharding}))


def unformed():
    """A form that nobody wrote."""
    node = build_graph(Mlp).functions["main"].nodes[0]
    return run_form("mirror", lambda x: x, node, PLAN.choices["main"][0], [], Mesh(tp=2))


@I.ir_module
class Lengths:
    """Two tensors of one symbolic size."""

    @R.function
    def main(x: R.Tensor(("n",), "float32"), y: R.Tensor(("n",), "float32")):
        with R.dataflow():
            z = R.tanh(x)
            u = R.tanh(y)
            R.output(z, u)
        return z, u


def split_otherwise():
    """A symbolic size that no worker can tell: a half of it here, a third there."""
    specs = {"main.x": P("dp"), "main.y": P("tp"), "main.return[0]": P("dp"), "main.return[1]": P("tp")}
    return spmd.shard(Lengths, Mesh(dp=2, tp=3), specs, divisible={"n": 6})


def call_in_a_call():
    """A module that the graph is not made of before it is normalized."""
    x = relax.Var("x", X)
    body = relax.SeqExpr([], relax.op.tanh(relax.op.tanh(x)))
    return tvm.IRModule({"main": relax.Function([x], body, X, attrs=tvm.ir.make_node("ir.DictAttrs", global_symbol="main"))})


def given_what_is_of_another():
    """The pair of one function as the argument of another, which takes a pair of other shapes."""
    with spmd.workers(spmd.shard(Pairs, 2)) as w:
        (pair,) = w.load([np.ones(4, "float32"), np.ones(6, "float32")], function="first")
        w["second"](pair)


def returning(name):
    """`Mlp` by a plan that returns another value."""
    *steps, last = PLAN.steps["main"]
    return spmd.lower(Mlp, replace(PLAN, steps={**PLAN.steps, "main": [*steps, replace(last, operands=(name,))]}))


def hinted_otherwise():
    """A spec on what a hint in the program says otherwise of."""
    builder, x = relax.BlockBuilder(), relax.Var("x", X)
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(spmd.hint(x, P("tp"))))
    return spmd.shard(builder.get(), 2, {"main.gv": P(None)})


@spmd.rule("tests.sizeless")
def sizeless(op):
    """A rule with a factor of no size."""
    return replace(op.bind("m -> m"), sizes={})


def without_sizes():
    """A call of an operator with such a rule."""
    builder, x = relax.BlockBuilder(), relax.Var("x", X)
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.call_dps_packed("tests.sizeless", [x], X)))
    return spmd.shard(builder.get(), 2)


@I.ir_module
class Updated:
    """Two results that could take the memory of a weight, and two that could not."""

    @R.function
    def main(x: R.Tensor((4, 6), "float32"), w: R.Tensor((4, 6), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.add(x, w)
            z = R.add(y, w)
            half = R.astype(y, "float16")
            row = R.sum(y, axis=[0])
            R.output(y, z, half, row)
        return y, z, half, row


def replacing(*results, donate=True):
    """`Updated` with these results in the place of its weight."""
    return spmd.shard(Updated, 2, {f"main.return[{i}]": spmd.same("w", donate=donate) for i in results})


def used_again():
    """What was donated, joined afterwards."""
    with spmd.workers(replacing(0)) as w:
        (weight,) = w.load([np.ones((4, 6), "float32")])
        w["main"](np.ones((4, 6), "float32"), weight)
        weight.numpy()


def linked_by_nobody():
    """A library on a machine without a linker."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("CXX", "no-such-compiler")
        patch.setenv("PATH", folder)
        spmd.build(spmd.shard(Mlp, 2), "llvm").export(folder)


class Unreduced(tuple):
    """As jax.sharding.PartitionSpec is where a sum is left open."""

    UNCONSTRAINED, unreduced = None, frozenset({"tp"})


def unsigned():
    """A program whose operator TVM has no code for."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType([4], "uint8"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.negative(x)))
    return builder.finalize()


ERRORS = {
    "what is returned": (lambda: returning("main.up"), "(<Sharding [-, -]>,)) follows from its decisions. Plan this module"),
    "a hint and a spec": (
        hinted_otherwise,
        "main.gv: specs['main.gv'] asks for P(None), and spmd.hint asks for P('tp'). Keep one of them.",
    ),
    "a factor of no size": (without_sizes, "rule of 'tests.sizeless': it has no size for factor 'm'. Let op.bind() make it"),
    "no operator": (lambda: spmd.rule("relax.nonsense"), "spmd.rule(): TVM has no operator 'relax.nonsense'. Did you mean 'relax."),
    "donated twice": (
        lambda: replacing(0, 1),
        "on 'main.return[1]': 'w' is donated already, by specs['main.return[0]'] on 'main.return[0]'. One result takes",
    ),
    "memory of another type": (
        lambda: replacing(2),
        "it is float16, and 'w' is float32: it cannot take that memory. Write same('w')",
    ),
    "another shape": (lambda: replacing(3, donate=False), "'main.return[3]': it is 6, and 'w' is 4 x 6. Name what the result replaces."),
    "what was given away": (used_again, "Handle.numpy: what it is a handle of was donated to main()"),
    "no cost": (lambda: spmd.shard(Mlp, 2, cost=lambda *_: 3), "cost: it gave int 3, and not a spmd.Cost. Pass a subclass of spmd.Cost"),
    "no dimensions": (
        lambda: Sharding(3),
        "Sharding: it takes a tuple of Split or None, and one of partial axes, and got int 3 and a tuple ().",
    ),
    "a proof or none": (lambda: spmd.shard(Mlp, 2, verify="yes"), "shard(), verify: it takes True or False, and got str 'yes'"),
    "a mesh to pad": (lambda: Sharding.replicated(2).is_padded(3), "Sharding.is_padded: it takes a Mesh, and got int 3."),
    "a mesh to normalize": (lambda: Sharding.replicated(2).normalized(3), "Sharding.normalized: it takes a Mesh, and got int 3."),
    "a shape and a mesh": (
        lambda: Sharding.replicated(2).local_shape((2, 3), 3),
        "Sharding.local_shape: it takes a shape and a Mesh, and got a tuple (2, 3) and int 3.",
    ),
    "sizes to prove": (
        lambda: spmd.verify(Mlp, spmd.shard(Mlp, 2), sizes=[3]),
        "verify, sizes: it takes a dictionary from names, and got list",
    ),
    "no linker": (linked_by_nobody, "Library.export: it cannot be linked: "),
    "an attribute": (lambda: register_backend("mine", "nope"), "'nope' names no attribute of a module. Write \"module:attribute\"."),
    "an open sum": (lambda: from_jax({"w1": Unreduced((None, None))}), "from_jax: 'w1': (None, None) is unreduced. Partial"),
    "a number": (
        lambda: spmd.Profile.from_json(json.dumps({**json.loads(spmd.Profile("x", 1e12, 1e9, 1e9, 1e-6).to_json()), "flops": -1})),
        "Profile.from_json: flops is -1. It is a number above 0.",
    ),
    "types that disagree": (lambda: from_dist(Typed), "from_dist: 'w' is P('tp') in one function, and P(None) in 'second'"),
    "no pairs": (lambda: from_mlc([1, 2]), "it takes the pairs (name, parameter) that export_tvm gives, and got int 1"),
    "a flag": (lambda: P("tp", gather="no"), "P(), gather: it takes True or False, and got str 'no'"),
    "others": (lambda: P("tp", others=3), "P(): others is int 3. It is '?', or None"),
    "a key": (lambda: spmd.shard(Mlp, 2, {3: P()}), "shard(), specs: int 3 stands where the name of a value goes"),
    "pairs of positions": (
        lambda: dialect.permute(relax.Var("x", relax.TensorType([4], "float32")), "tp", [1, 2], 2, "x"),
        "it takes pairs of positions, and got",
    ),
    "a mesh too large": (lambda: Mesh(a=1 << 20, b=1 << 20), "Mesh: it has 1099511627776 workers. At most"),
    "zero": (lambda: bind("m -> m", ((4,),), ((4,),), zero="some"), "zero is 'some'. It is 'any', 'all' or ''"),
    "seconds": (lambda: spmd.plan(Mlp, 2, cost=Slow), "takes -1.0 seconds. compute_time and exchange_time give seconds, 0 or more"),
    "what a plan lacks": (lacking, "plan for 'main': it says nothing of 'main.up'. Plan this module with spmd.plan()."),
    "no split": (lambda: lowered(Sharding((Split(("tp",), ()), None))), "is no split: "),
    "another size": (lambda: lowered(Sharding((None, split(30)))), "does not fit dimension 1 of 'up', of size 32"),
    "a number that does not divide": (lambda: dealt_out_by(4), "does not fit dimension 0 of 'z', of size n. Plan this module"),
    "parts of nothing": (lambda: dealt_out_by(0), "does not fit dimension 0 of 'z', of size n. Plan this module"),
    "an axis twice": (lambda: lowered(Sharding((split(4), split(32)))), "uses a mesh axis twice. Plan this module"),
    "units": (lambda: lowered(Sharding((None, split(32, 16)))), "has units that say nothing. Plan this module"),
    "no such form": (unformed, "its rule asks for the form 'mirror'. There are "),
    "a call in a call": (lambda: build_graph(call_in_a_call()), "a call stands inside another expression. Run relax.transform.Normalize()"),
    "workers of nothing": (
        lambda: spmd.workers(3),
        "it takes what spmd.shard() gives, or an IRModule for one worker, and got int 3. Write spmd.workers(",
    ),
    "a size that nobody tells": (split_otherwise, "no parameter tells the size 'n': all are split, over [2, 3] workers. Keep one whole"),
    "several operators": (
        lambda: operator_of(build_graph(Mlp).functions["main"]),
        "function 'main': it has 3 operators, and the oracle takes functions of one. Take it apart",
    ),
    "a handle of another": (given_what_is_of_another, "its handle was made for something else"),
    "what TVM cannot compile": (
        lambda: spmd.workers(unsigned()),
        "workers(): TVM cannot compile the program for llvm: InternalError: Check failed: (value >= 0) is false",
    ),
    "what TVM cannot build": (lambda: spmd.build(unsigned()), "build(): TVM cannot compile the program for llvm: InternalError: "),
    "a target": (lambda: spmd.workers(spmd.shard(Mlp, 2), target="no such"), "workers(), target: "),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_it_says(name):
    mistake, text = ERRORS[name]
    with pytest.raises(ShardingError, match=re.escape(text)):
        mistake()


def test_it_is_the_same_in_another_process():
    wrong = ShardingError("here", "it is wrong")
    for error in (wrong, ShardingError("here", "it is wrong", "Mend it."), dialect._Restored(f"{wrong}")):
        sent = pickle.loads(pickle.dumps(error))
        assert str(sent) == str(error) and sent.where == "here"


def test_a_file_that_is_no_text(tmp_path):
    file = tmp_path / "plan.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ShardingError, match=r"'.*plan\.json' is no text \(.*\)\. Give the file that was saved"):
        spmd.Plan.load(file)
