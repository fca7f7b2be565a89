"""An ONNX file on two workers, beside ONNX's own reference.

python examples/doors/onnx_file.py
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

import spmd
from spmd import P

rng = np.random.default_rng(0)
up, down = rng.standard_normal((64, 256)).astype("float32") / 8, rng.standard_normal((256, 64)).astype("float32") / 16
graph = onnx.parser.parse_graph("""
    mlp (float[batch, 64] x) => (float[batch, 64] y) { a = MatMul(x, up)  b = Relu(a)  y = MatMul(b, down) }
""")
graph.initializer.extend([onnx.numpy_helper.from_array(up, "up"), onnx.numpy_helper.from_array(down, "down")])
path = Path(tempfile.mkdtemp()) / "mlp.onnx"
onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)

imported = spmd.from_onnx(path)
sharded = spmd.shard(imported.mod, mesh=2, specs={"up": P(None, "tp"), "down": P("tp", None)})
print(sharded.plan.explain())
x = rng.standard_normal((5, 64)).astype("float32")
with spmd.workers(sharded) as workers:
    found = np.asarray(workers["main"](x, *workers.load(imported.weights)))
(expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
print(f"largest difference: {np.abs(found - expected).max():.1e}")
