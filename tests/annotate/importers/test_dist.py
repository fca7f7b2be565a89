"""Modules annotated for ``relax.distributed``: read, stripped, and sharded as they asked."""

import pytest
import tvm
from tvm import relax
from tvm.relax.script import parser as R
from tvm.script import ir as I
from tvm.script import tirx as T

from spmd import Mesh, P, ShardingError
from spmd.annotate.importers import from_dist
from spmd.testing import assert_equivalent


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


@I.ir_module
class Kernel:
    """A call of a kernel that says what it gives."""

    I.module_global_infos({"mesh": [R.device_mesh((2,), I.Range(0, 2))]})

    @T.prim_func(private=True, s_tir=True)
    def double(x: T.Buffer((8, 6), "float32"), y: T.Buffer((8, 6), "float32")):
        for i, j in T.grid(8, 6):
            with T.sblock("double"):
                a, b = T.axis.remap("SS", [i, j])
                y[a, b] = x[a, b] * T.float32(2)

    @R.function
    def main(x: R.DTensor((8, 6), "float32", "mesh[0]", "S[0]")):
        cls = Kernel
        with R.dataflow():
            y = R.dist.call_tir(cls.double, (x,), R.DTensor((8, 6), "float32", "mesh[0]", "S[0]"))
            z = R.add(y, y)
            R.output(y, z)
        return y, z


@I.ir_module
class Cast:
    """A type that is asserted inside."""

    I.module_global_infos({"mesh": [R.device_mesh((2,), I.Range(0, 2))]})

    @R.function
    def main(x: R.DTensor((8, 6), "float32", "mesh[0]", "S[0]")):
        with R.dataflow():
            y = R.match_cast(x, R.DTensor((8, 6), "float32", "mesh[0]", "S[0]"))
            R.output(y)
        return y


def test_calls_of_kernels_and_tuples():
    mod, mesh, specs = from_dist(Kernel)
    assert specs == {"main.x": P("tp", None), "main.return[0]": P("tp", None), "main.return[1]": P("tp", None)}
    assert "DTensor" not in mod.script()
    assert assert_equivalent(mod, mesh, specs).plan.collectives == []


def test_what_stays_distributed_is_an_error():
    with pytest.raises(ShardingError, match=r"from_dist: function 'main': 'y' stays a DTensor\. Write R\.dist\.annotate_sharding"):
        from_dist(Cast)


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
