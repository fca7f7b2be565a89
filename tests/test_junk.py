"""Junk at every argument of every public function: nothing but `ShardingError` comes back, or the call is right after all."""

import contextlib
import inspect
import math

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax
from tvm.relax.frontend import nn

import spmd
from spmd import Mesh, P, ShardingError, collectives, presets, testing, transform
from spmd.annotate import importers
from tests.programs import Mlp

SPLIT = {"w1": P(None, "tp"), "w2": P("tp", None)}
SHARDED = spmd.shard(Mlp, 2, SPLIT)
PLAN = SHARDED.plan
PROFILE = spmd.Profile("own", 1e12, 1e12, 1e9, 1e-6)
MESH = Mesh(dp=2, tp=2)
WEIGHTS = {"w1": np.zeros((16, 32), "float32"), "w2": np.zeros((32, 16), "float32")}
X = relax.Var("x", relax.TensorType([4, 8], "float32"))


class Network(nn.Module):
    """One that is not exported."""

    def forward(self, x):
        return x


class Own:
    """An object of nobody's."""


def anything(*_, **__):
    return None


JUNK = {
    "none": None,
    "true": True,
    "zero": 0,
    "one": 1,
    "three": 3,
    "negative": -1,
    "large": 10**30,
    "half": 0.5,
    "nan": math.nan,
    "infinite": math.inf,
    "no text": "",
    "text": "tp",
    "name": "main",
    "blanks": "a b+c",
    "bytes": b"tp",
    "list": [],
    "numbers": [2, 2],
    "texts": ["tp", "dp"],
    "nested": [[None], ["tp"]],
    "tuple": (),
    "shape": (2, 2),
    "set": {1},
    "dict": {},
    "sizes": {"n": 4},
    "specs": {"w1": P(None, "tp")},
    "wrong specs": {"w1": ("tp", None)},
    "wrong keys": {1: 2},
    "function": anything,
    "class": Own,
    "object": Own(),
    "module": Mlp,
    "function of a module": Mlp["main"],
    "pair": (Mlp, []),
    "network": Network(),
    "sharded": SHARDED,
    "module of a worker": SHARDED.mod,
    "plan": PLAN,
    "mesh": MESH,
    "spec": P("tp"),
    "sharding": spmd.Sharding((None,)),
    "profile": PROFILE,
    "value": X,
    "array": np.zeros((2, 2), "float32"),
    "scalar": np.float32(2.5),
    "whole scalar": np.int64(2),
    "objects": np.array([None, "a"], dtype=object),
    "tensor": tvm.runtime.tensor(np.zeros(3, "float32")),
    "type": relax.TensorType([2], "float32"),
}


PARAMS = PLAN.functions["main"].params
NO_MESH = {"mod": Mlp, "mesh": "none"}
"""Of what takes long where all is right."""


def public():
    """Every public function with arguments that are right, by name; what is slow with these is never called with them."""
    return {
        "shard": (spmd.shard, {"mod": Mlp, "mesh": 2, "specs": SPLIT, "profile": "h100", "sizes": None, "divisible": None, "memory": None}),
        "plan": (spmd.plan, {"mod": Mlp, "mesh": 2, "specs": None, "cost": spmd.Cost}),
        "scaling": (spmd.scaling, {"mod": Mlp, "meshes": [2], "specs": None, "profile": "h100", "sizes": None, "divisible": None}),
        "price": (spmd.price, {"mod": Mlp, "mesh": 2, "specs": None, "cost": spmd.Cost}),
        "lower": (spmd.lower, {"mod": Mlp, "plan": PLAN}),
        "verify": (spmd.verify, {"mod": Mlp, "sharded": SHARDED, "sizes": None, "arguments": None, "rounds": 1, "seed": 0}),
        "verify by hand": (spmd.verify, {"mod": Mlp, "sharded": Mlp, "mesh": 1, "inputs": None, "outputs": None}),
        "partition": (SHARDED.partition, {"weights": WEIGHTS, "rank": None}),
        "hint": (spmd.hint, {"x": X, "spec": P("tp", None)}),
        "remat": (spmd.remat, {"x": X}),
        "P": (lambda entry, others, gather: P(entry, others=others, gather=gather), {"entry": "tp", "others": None, "gather": True}),
        "P.constraint": (P("tp", None).constraint, {"shape": (4, 8), "mesh": MESH, "where": "here"}),
        "P.sharding": (P("tp", None).sharding, {"shape": (4, 8), "mesh": MESH, "where": "here"}),
        "Mesh": (Mesh, {"tp": 2, "links": None, "hosts": 1, "devices": None}),
        "Mesh by name": (lambda name: Mesh.of({name: 2} if isinstance(name, str) else name), {"name": "tp"}),
        "Mesh.of": (Mesh.of, {"mesh": 2}),
        "Mesh.axis_size": (MESH.axis_size, {0: "tp"}),
        "Mesh.coordinates": (MESH.coordinates, {"rank": 1}),
        "Mesh.index": (MESH.index, {"rank": 1, "axes": ("tp",)}),
        "Mesh.groups": (MESH.groups, {"axis": "tp"}),
        "Mesh.host": (MESH.host, {"rank": 1}),
        "Mesh.crosses_hosts": (MESH.crosses_hosts, {"axis": "tp"}),
        "Mesh.link": (MESH.link, {"axis": "tp"}),
        "Mesh.is_slow": (MESH.is_slow, {"axis": "tp"}),
        "Mesh.parts": (MESH.parts, {0: "tp"}),
        "Mesh.has": (MESH.has, {"name": "tp"}),
        "Mesh.canonical": (MESH.canonical, {"axes": ("tp",)}),
        "Sharding": (spmd.Sharding, {"dims": (None,), "partial": ()}),
        "Sharding.parse": (spmd.Sharding.parse, {"text": "[tp, -]", "shape": (4, 8)}),
        "Sharding.replicated": (spmd.Sharding.replicated, {"rank": 2}),
        "Sharding.local_shape": (PLAN.params["w1"].local_shape, {"shape": (16, 32), "mesh": Mesh(tp=2)}),
        "Sharding.at": (PLAN.params["w1"].at, {"shape": (16, 32)}),
        "Sharding.told": (PLAN.params["w1"].told, {"sizes": {"n": 8}}),
        "Sharding.normalized": (PLAN.params["w1"].normalized, {"mesh": Mesh(tp=2)}),
        "Sharding.is_padded": (PLAN.params["w1"].is_padded, {"mesh": Mesh(tp=2)}),
        "Plan.explain": (PLAN.explain, {"name": "w1"}),
        "Plan.alternatives": (PLAN.alternatives, {"name": "w1"}),
        "Plan.visualize": (PLAN.visualize, {"name": "w1"}),
        "Plan.timeline": (PLAN.timeline, {"function": "main"}),
        "visualize": (lambda **given: str(spmd.visualize(**given)), {"what": P(None, "tp"), "of": None, "shape": (4, 8), "mesh": 2}),
        "visualize a name": (spmd.visualize, {"what": "w1", "of": PLAN}),
        "Plan.listing": (PLAN.listing, {"function": "main"}),
        "Plan.diff": (PLAN.diff, {"other": PLAN}),
        "Plan.from_json": (spmd.Plan.from_json, {"text": PLAN.to_json()}),
        "Profile": (
            spmd.Profile,
            {
                "name": "own",
                "flops": 1e12,
                "memory_bandwidth": 1e12,
                "link_bandwidth": 1e9,
                "link_latency": 1e-6,
                "kernel_latency": 0.0,
                "memory": None,
                "rates": {},
                "links": {},
            },
        ),
        "Profile.rate": (PROFILE.rate, {"dtype": "float32"}),
        "Profile.link": (PROFILE.link, {"name": ""}),
        "Profile.from_json": (spmd.Profile.from_json, {"text": PROFILE.to_json()}),
        "Link": (spmd.Link, {"bandwidth": 1e9, "latency": 1e-6}),
        "Cost": (spmd.Cost, {"mesh": MESH, "profile": PROFILE, "sizes": None, "memory": None}),
        "Cost.link": (spmd.Cost(MESH, PROFILE).link, {"axis": "tp"}),
        "Cost.exchange_time": (spmd.Cost(MESH, PROFILE).exchange_time, {"kind": "all_reduce", "axis": "tp", "held": 8}),
        "rule": (lambda name, expression: spmd.rule(name, expression=expression), {"name": "junk.rule", "expression": "m -> m"}),
        "rule of a function": (lambda function: spmd.rule("junk.rule")(function), {"function": lambda op: None}),
        "workers": (spmd.workers, {"sharded": None, "backend": "none", "target": "nothing", "timeout": 0}),
        "build": (spmd.build, {"sharded": None, "target": "nothing"}),
        "load": (spmd.load, {"folder": "nowhere"}),
        "weights.source": (spmd.weights.source, {"given": WEIGHTS, "names": None, "convert": False}),
        "weights.write": (spmd.weights.write, {"plan": "none", "given": WEIGHTS, "folder": "x", "layout": "none", "part_bytes": None}),
        "weights.Folder": (spmd.weights.Folder.of, {"path": "nowhere"}),
        "measure": (spmd.measure, {"workers": 1, "seconds": 0, "name": "own", "backend": "none"}),
        "data_parallel": (presets.data_parallel, {"mod": Mlp, "axis": "dp"}),
        "fsdp": (presets.fsdp, {"mod": Mlp, "axis": "dp", "specs": None}),
        "megatron": (presets.megatron, {"mod": Mlp, "axis": "tp", "columns": ["w1"], "rows": ["w2"]}),
        "state": (presets.state, {"mod": Mlp, "donate": False}),
        "same": (spmd.same, {"name": "w1", "donate": True}),
        "sequence_parallel": (presets.sequence_parallel, {"mod": Mlp, "axis": "tp", "columns": ["w1"], "rows": ["w2"]}),
        "plan_of": (transform.plan_of, {"mod": Mlp}),
        "CapScores": (transform.CapScores, {"cap": 50.0}),
        "with_plan": (transform.with_plan, {"mod": Mlp, "plan": PLAN}),
        "sharded": (transform.sharded, {"mod": Mlp}),
        "Propagate": (transform.Propagate, {"mesh": 2, "specs": None, "profile": "h100", "sizes": None, "divisible": None, "memory": None}),
        "Shard": (transform.Shard, {"mesh": 2, "specs": None, "cost": spmd.Cost}),
        "from_jax": (importers.from_jax, {"tree": {}}),
        "from_huggingface": (
            importers.from_huggingface,
            {"plan": {"w1": "colwise"}, "weights": {"w1": (4, 4)}, "axis": "tp", "workers": 2},
        ),
        "from_dtensor": (importers.from_dtensor, {"placements": {}, "axes": ("tp",)}),
        "to_huggingface": (importers.to_huggingface, {"plan": PLAN, "axis": "tp"}),
        "to_dtensor": (importers.to_dtensor, {"sharding": "none", "mesh": MESH}),
        "from_torch": (spmd.from_torch, {"model": "none", "example_inputs": (), "kwargs": None, "dynamic_shapes": None}),
        "from_onnx": (spmd.from_onnx, {"model": "nowhere.onnx"}),
        "from_jax of spmd": (spmd.from_jax, {0: "none", 1: X}),
        "from_mlc": (importers.from_mlc, {"params": [], "axis": "tp", "others_whole": False}),
        "from_dist": (importers.from_dist, {"mod": Mlp, "axes": ("tp",)}),
        "all_reduce": (collectives.all_reduce, {"x": X, "axis": "tp", "kind": "sum", "workers": 2, "value": "x"}),
        "all_gather": (collectives.all_gather, {"x": X, "axis": "tp", "dim": 0, "workers": 2, "value": "x"}),
        "reduce_scatter": (collectives.reduce_scatter, {"x": X, "axis": "tp", "kind": "sum", "dim": 0, "workers": 2, "value": "x"}),
        "all_to_all": (collectives.all_to_all, {"x": X, "axis": "tp", "split_dim": 0, "concat_dim": 1, "workers": 2, "value": "x"}),
        "permute": (collectives.permute, {"x": X, "axis": "tp", "pairs": [(0, 1)], "workers": 2, "value": "x"}),
        "broadcast": (collectives.broadcast, {"x": X, "axis": "tp", "root": 0, "workers": 2, "value": "x"}),
        "axis_index": (collectives.axis_index, {"axis": "tp", "workers": 2}),
        "bind": (collectives.bind, {"mod": Mlp, "rows": True}),
        "make_backend": (collectives.make_backend, {"name": "threads", "mesh": MESH, "timeout": 1.0}),
        "register_backend": (collectives.register_backend, {"name": "junk", "factory": "module:attribute"}),
        "set_communicator": (collectives.set_communicator, {"communicator": None}),
        "simulate": (testing.simulate, {"sharded": None, "run": anything, "seed": 0, "sizes": None}),
        "assert_equivalent": (testing.assert_equivalent, {**NO_MESH, "specs": None, "seed": 0, "sizes": None, "tolerance": None}),
        "assert_all_equivalent": (testing.assert_all_equivalent, {"cases": [], "seed": 0, "backend": "threads"}),
        "prove": (testing.prove, {**NO_MESH, "arguments": None, "seed": 0, "tolerance": None, "most": 1}),
        "find_missing": (testing.find_missing, {**NO_MESH, "arguments": None, "seed": 0, "most": 1}),
        "random_arguments": (testing.random_arguments, {"params": PARAMS, "function": "main", "seed": 0, "sizes": None}),
        "difference": (testing.difference, {"expected": np.zeros(2), "found": np.zeros(2), "tolerance": None, "where": "here"}),
        "Case": (testing.Case, {"mod": Mlp, "mesh": MESH, "specs": {}, "sizes": {}}),
    }


PUBLIC = public()


def call(name, argument, junk):
    """A call with junk at one argument: right, or a `ShardingError`."""
    function, arguments = PUBLIC[name]
    given = {**arguments, argument: junk}
    in_place, named = [v for k, v in given.items() if isinstance(k, int)], {k: v for k, v in given.items() if isinstance(k, str)}
    with contextlib.suppress(ShardingError):
        function(*in_place, **named)
    collectives.set_communicator(None)


@pytest.mark.parametrize("name", PUBLIC)
def test_junk_is_refused(name):
    for argument in PUBLIC[name][1]:
        for junk in JUNK.values():
            call(name, argument, junk)


def test_every_public_function_is_here():
    rooms = (spmd, presets, transform, testing, collectives, importers)
    functions = {n for room in rooms for n in getattr(room, "__all__", dir(room)) if inspect.isfunction(getattr(room, n)) and n[0] != "_"}
    classes = (Mesh, spmd.Sharding, spmd.Profile)
    methods = {f"{kind.__name__}.{n}" for kind in classes for n, f in vars(kind).items() if callable(f) or isinstance(f, classmethod)}
    without = {"Sharding.axes", "Mesh.extras", "Mesh.taken", "Profile.to_json"}
    files = {"Profile.save", "Profile.load"}
    assert not functions - PUBLIC.keys() - {"door", "Lower"}
    assert not {m for m in methods if "._" not in m} - PUBLIC.keys() - without - files


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
values = st.recursive(
    plain | st.sampled_from(list(JUNK.values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.hypothesis
@given(st.data())
def test_more_junk(data):
    name = data.draw(st.sampled_from(list(PUBLIC)))
    call(name, data.draw(st.sampled_from(list(PUBLIC[name][1]))), data.draw(values))


@pytest.mark.parametrize("junk", JUNK)
def test_junk_for_running_workers(running, junk):
    """Arguments, weights and names on workers: refused before anything runs."""
    given = JUNK[junk]
    for act in (
        lambda: running[given],
        lambda: running["main"](given, *WEIGHTS.values()),
        lambda: running["main"](np.zeros((4, 16), "float32"), w1=given, w2=WEIGHTS["w2"]),
        lambda: running["main"](np.zeros((4, 16), "float32"), *WEIGHTS.values(), keep=given),
        lambda: running["main"].timeline(given, *WEIGHTS.values()),
        lambda: running.load(given),
        lambda: running.load(WEIGHTS, given),
        lambda: running.load({**WEIGHTS, "w1": given}),
        lambda: running.load([given, WEIGHTS["w2"]]),
        lambda: running.call_packed(given),
        lambda: running.trace(given),
        lambda: SHARDED.partition({**WEIGHTS, "w1": given}),
    ):
        with contextlib.suppress(ShardingError):
            act()


@pytest.fixture(scope="module")
def running():
    with spmd.workers(SHARDED) as w:
        yield w
