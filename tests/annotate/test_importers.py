"""Other people's annotations as specs, none of them installed."""

from dataclasses import dataclass

import pytest
import tvm
from tvm import relax
from tvm.relax.script import parser as R
from tvm.script import ir as I

import spmd
from spmd import Mesh, P, ShardingError
from spmd.annotate.importers import from_dist, from_jax, from_mlc
from spmd.testing import assert_equivalent
from tests.models.mlc_llama import TINY, hand_written, mlc_llama


@dataclass
class ShardSingleDim:
    """That of ``mlc_llm.support.tensor_parallel``."""

    name: str
    dim: int
    segs: list[int] | None = None


def annotated(quantization="q0f16", n=2):
    """The model with the strategies that MLC-LLM gives its weights; segments are those of the whole weight on one device."""
    mod, named = mlc_llama(TINY, quantization, functions=["embed", "batch_decode"])
    for name, param in named:
        shard = hand_written(TINY, n, quantization).get(name)
        if shard is not None:
            param.attrs["shard_strategy"] = ShardSingleDim(f"_shard_{name}", shard.dim, list(shard.segments) if shard.segments else None)
    return mod, named


@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_mlc_strategies_are_obeyed(quantization):
    mod, named = annotated(quantization)
    specs = from_mlc(named)
    kind = "weight" if quantization == "q0f16" else "q_weight"
    assert specs[f"model.layers.0.self_attn.qkv_proj.{kind}"] == P(("tp", *TINY.qkv), None)
    assert specs[f"model.layers.1.mlp.down_proj.{kind}"] == P(None, "tp")
    assert set(specs) == set(hand_written(TINY, 2, quantization)), "what has no strategy is the planner's"
    plan = spmd.plan(mod, 2, specs)
    for name, spec in specs.items():
        found = plan.params[name.replace(".", "_")]
        assert found == spec.sharding(tuple(d.size if d else 1 for d in found.dims), Mesh(tp=2), name)


def test_mlc_weights_without_a_strategy_are_whole_if_asked():
    mod, named = annotated()
    specs = from_mlc(named, axis="x", others_whole=True)
    assert specs["model.embed_tokens.weight"] == P(others=None)
    assert specs["model.layers.0.self_attn.o_proj.weight"] == P(None, "x")
    plan = spmd.plan(mod, Mesh(x=2), specs)
    assert {n for n, s in plan.params.items() if s.axes()} == {n.replace(".", "_") for n in hand_written(TINY, 2)}


def weight(strategy, shape=(8, 4)):
    param = relax.frontend.nn.Parameter(shape)
    param.attrs["shard_strategy"] = strategy
    return [("w", param)]


def test_mlc_dimensions_and_segments():
    assert from_mlc(weight(ShardSingleDim("s", -1))) == {"w": P(None, "tp")}
    assert from_mlc(weight(ShardSingleDim("s", 0, [8]))) == {"w": P("tp", None)}
    assert from_mlc(weight(ShardSingleDim("s", 0, [2, 6]))) == {"w": P(("tp", 2, 6), None)}
    assert from_mlc([("w", relax.frontend.nn.Parameter((8, 4)))]) == {}


MLC_REFUSED = {
    "segments": (
        ShardSingleDim("s", 0, [2, 2]),
        r"shard_strategy of 'w': its segments \(2, 2\) add up to 4, and dimension 0 has size 8",
    ),
    "dimension": (ShardSingleDim("s", 2), r"shard_strategy of 'w': it splits dimension 2, and the weight has 2"),
    "kind": (object(), r"shard_strategy of 'w': <object .*> has no dimension\. Only strategies of one dimension are read"),
}


@pytest.mark.parametrize("name", MLC_REFUSED)
def test_mlc_strategies_that_are_refused(name):
    strategy, message = MLC_REFUSED[name]
    with pytest.raises(ShardingError, match=message):
        from_mlc(weight(strategy))


class PartitionSpec(tuple):
    """That of JAX 0.4, a tuple."""

    __slots__ = ()

    class UNCONSTRAINED:
        """Its stand-in for what is left open."""

    def __new__(cls, *entries):
        return tuple.__new__(cls, entries)


def later(*entries, unreduced=frozenset()):
    """That of later versions, no tuple."""
    kind = type("PartitionSpec", (), {"__iter__": lambda self: iter(entries), "__repr__": lambda self: f"PartitionSpec{entries}"})
    made = kind()
    made.unreduced = unreduced
    return made


@dataclass
class NamedSharding:
    """A mesh and a spec."""

    mesh: object
    spec: object


@pytest.mark.parametrize("spec", [PartitionSpec, later])
def test_trees_of_partition_specs(spec):
    tree = {
        "embed": spec("tp"),
        "layers": [{"wq": spec(None, "tp"), "norm": spec()}, {"wq": NamedSharding(None, spec(("dp", "tp"), None)), "norm": None}],
        "head": {"kernel": spec(PartitionSpec.UNCONSTRAINED, "tp"), "bias": spec(())},
    }
    assert from_jax(tree) == {
        "embed": P("tp", others=None),
        "layers.0.wq": P(None, "tp", others=None),
        "layers.0.norm": P(others=None),
        "layers.1.wq": P(("dp", "tp"), None, others=None),
        "head.kernel": P("?", "tp", others=None),
        "head.bias": P((), others=None),
    }


JAX_REFUSED = {
    "leaf": ({"a": {"b": 3}}, r"from_jax: at 'a\.b' stands 3\. A leaf is a PartitionSpec"),
    "entry": ({"a": PartitionSpec(3)}, r"from_jax: 'a': \(3,\) has the entry 3\. Write None, an axis"),
    "names": ({"a.b": PartitionSpec(), "a": {"b": PartitionSpec()}}, r"from_jax: two leaves have the name 'a\.b'"),
    "partial": ({"a": later("tp", unreduced=frozenset({"dp"}))}, r"from_jax: 'a': PartitionSpec\('tp',\) is unreduced\. Partial sums are"),
}


@pytest.mark.parametrize("name", JAX_REFUSED)
def test_trees_that_are_refused(name):
    tree, message = JAX_REFUSED[name]
    with pytest.raises(ShardingError, match=message):
        from_jax(tree)


@I.ir_module
class Annotated:
    """A product whose operand and result are annotated, on a grid."""

    I.module_attrs({"device_num": 4})
    I.module_global_infos({"mesh": [R.device_mesh((2, 2), I.Range(0, 4))]})

    @R.function
    def main(x: R.Tensor((8, 6), "float32"), w: R.Tensor((6, 4), "float32")) -> R.Tensor((8, 4), "float32"):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            a = R.dist.annotate_sharding(x, device_mesh="mesh[0]", placement="S[0], R")
            y = R.matmul(a, w)
            b = R.dist.annotate_sharding(y, device_mesh="mesh[0]", placement="S[0], S[0]")
            z = R.nn.gelu(b)
            R.output(z)
        return z


@I.ir_module
class Typed:
    """Types that say where tensors live, and a change of mind."""

    I.module_attrs({"device_num": 2})
    I.module_global_infos({"mesh": [R.device_mesh((2,), I.Range(0, 2))]})

    @R.function
    def main(x: R.DTensor((8, 6), "float32", "mesh[0]", "S[0]"), w: R.DTensor((6, 4), "float32", "mesh[0]", "R")) -> R.DTensor(
        (8, 4), "float32", "mesh[0]", "S[1]"
    ):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.matmul(x, w)
            z = R.dist.redistribute(y, device_mesh="mesh[0]", placement="S[1]")
            u = R.nn.gelu(z)
            R.output(u)
        return u


def test_annotated_calls_become_hints():
    mod, mesh, specs = from_dist(Annotated, ("dp", "tp"))
    assert mesh == Mesh(dp=2, tp=2) and specs == {}
    text = mod.script()
    assert "dist" not in text and "device_mesh" not in text and "device_num" not in text
    relax.analysis.well_formed(mod)
    sharded = assert_equivalent(mod, mesh, specs)
    assert {n: str(sharded.plan.values[f"main.{n}"]) for n in "ab"} == {"a": "[dp, -]", "b": "[dp+tp, -]"}
    assert "R.dist" in Annotated.script(), "the module itself is as it was"


def test_types_become_specs():
    mod, mesh, specs = from_dist(Typed, ["x"])
    assert mesh == Mesh(x=2)
    assert specs == {"main.x": P("x", None), "w": P(None, None), "main.return": P(None, "x")}
    assert "DTensor" not in mod.script()
    sharded = assert_equivalent(mod, mesh, specs)
    assert (str(sharded.plan.inputs["main.x"]), str(sharded.plan.outputs["main"])) == ("[x, -]", "[-, x]")
    assert str(sharded.plan.values["main.z"]) == "[-, x]"


def meshes(*infos):
    return tvm.IRModule({}, global_infos={"mesh": list(infos)})


DIST_REFUSED = {
    "no mesh": (lambda: tvm.IRModule({}), ("tp",), r"from_dist: the module has 0 device meshes\. It needs one"),
    "axes": (lambda: Annotated, ("tp",), r"from_dist: axes=\('tp',\) are 1, and .*device_mesh.* has 2\. Name each once"),
    "order": (lambda: meshes(R.device_mesh((2,), [1, 0])), ("tp",), r"from_dist: .*device_mesh.* names its devices out of order"),
    "several": (
        lambda: meshes(R.device_mesh((2,), [0, 1]), R.device_mesh((4,), [0, 1, 2, 3])),
        ("tp",),
        r"from_dist: the module has 2 device meshes",
    ),
}


@pytest.mark.parametrize("name", DIST_REFUSED)
def test_modules_that_are_refused(name):
    mod, axes, message = DIST_REFUSED[name]
    with pytest.raises(ShardingError, match=message):
        from_dist(mod(), axes)


def test_a_module_that_is_lowered_already():
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            y = bb.emit_output(relax.op.ccl.allreduce(x, "sum"))
        bb.emit_func_output(y)
    mod = bb.finalize()
    mod = tvm.IRModule(dict(mod.functions_items()), global_infos={"mesh": [R.device_mesh((2,), [0, 1])]})
    with pytest.raises(ShardingError, match=r"from_dist: function 'main': it calls relax\.ccl\.allreduce: it is lowered already\. Import"):
        from_dist(mod)
