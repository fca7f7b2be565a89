"""Models of ONNX."""

import numpy as np
import pytest

import spmd
from spmd import P

onnx = pytest.importorskip("onnx")


def arrays():
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in {"0.w": (16, 32), "0.b": (32,), "1.w": (32, 16)}.items()}


def model(activation="Relu"):
    """Two products with an activation between, rows unknown, and a reshape whose sizes are an initializer."""
    node, info, f32 = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        node("Reshape", ["x", "rows"], ["r"], name="/flat/Reshape"),
        node("MatMul", ["r", "0.w"], ["a"], name="/0/MatMul"),
        node("Add", ["a", "0.b"], ["b"], name="/0/Add"),
        node(activation, ["b"], ["c"], name="/0/Act"),
        node("MatMul", ["c", "1.w"], ["y"], name="/1/MatMul"),
    ]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays().items()]
    weights.append(onnx.numpy_helper.from_array(np.array([-1, 16], "int64"), "rows"))
    shapes = [info("x", f32, ["batch", 4, 4])], [info("y", f32, ["batch", 16])]
    graph = onnx.helper.make_graph(nodes, "g", *shapes, weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def test_numbers_and_names(tmp_path):
    onnx.save(model(), tmp_path / "model.onnx")
    imported = spmd.from_onnx(tmp_path / "model.onnx")
    assert list(imported.weights) == ["0.w", "0.b", "1.w"]
    sharded = spmd.shard(imported.mod, 2, {"0.w": P(None, "tp"), "1.w": P("tp", None)})
    assert [c.kind for c in sharded.plan.collectives] == ["all_reduce"]
    assert any("0_MatMul" in name for name in sharded.plan.values)
    x, w = np.random.default_rng(2).standard_normal((3, 4, 4)).astype("float32"), arrays()
    expected = np.maximum(x.reshape(3, 16) @ w["0.w"] + w["0.b"], 0) @ w["1.w"]
    with spmd.workers(sharded) as workers:
        found = np.asarray(workers["main"](x, *workers.load(imported.weights)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "from_onnx: it takes the path of a file or a ModelProto, and got a int"),
        ("no/such/file.onnx", "from_onnx, 'no/such/file.onnx': it cannot be read: FileNotFoundError"),
    ],
)
def test_what_is_no_model(given, message):
    with pytest.raises(spmd.ShardingError, match=message):
        spmd.from_onnx(given)


def test_operators_that_are_not_known():
    with pytest.raises(spmd.ShardingError, match=r"from_onnx: TVM's importer fails: .*StringNormalizer"):
        spmd.from_onnx(model("StringNormalizer"))
