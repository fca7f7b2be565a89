"""Models in ONNX files, through TVM's importer. Weights and values keep their names."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from spmd.checks import package
from spmd.errors import ShardingError

from .imported import ImportedModel
from .naming import NamingBuilder


def from_onnx(model: Any) -> ImportedModel:
    """An ONNX model, as a path or as a `ModelProto`, as a module for `shard`.

    Its initializers are the weights, by their own names; values inside are named after their nodes, and sizes after the dimensions of
    the inputs. Raises `ShardingError` for a file that cannot be read, and for operators that TVM's importer does not know.
    """
    onnx = package("onnx", "from_onnx", "the package onnx is not installed", "onnx")
    from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

    proto = model if isinstance(model, onnx.ModelProto) else _read(onnx, model)

    class Importer(ONNXGraphImporter):
        """TVM's importer, which tells the builder at which node it is."""

        def __init__(self) -> None:
            super().__init__(None, "float32", keep_params_in_input=True)
            self.bb = NamingBuilder()

        def _convert_operator(self, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
            self.bb.hint = attrs["tvm_custom"]["name"].strip("/").replace("/", ".") or op_name
            try:
                made = super()._convert_operator(op_name, inputs, attrs, opset)
                return self.bb.emit(made) if isinstance(made, relax.Call) else made
            except Exception as error:
                what = f"TVM's importer fails at {op_name}: {type(error).__name__}: {error}"
                raise ShardingError(f"from_onnx, {self.bb.hint!r}", what, "Write that part of the model in other operators.") from error

    versions = [int(used.version) for used in proto.opset_import if used.domain in ("", "ai.onnx")]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # inputs are renamed where TVMScript could not print them
            mod = Importer().from_onnx(proto.graph, versions[0] if versions else 1)
    except ShardingError:
        raise
    except Exception as error:
        what = f"TVM's importer fails: {type(error).__name__}: {error}"
        raise ShardingError("from_onnx", what, "Export the model with operators that TVM knows.") from error
    return _imported(mod)


def _read(onnx: Any, path: Any) -> Any:
    if not isinstance(path, (str, Path)):
        what = f"it takes the path of a file or a ModelProto, and got a {type(path).__name__}"
        raise ShardingError("from_onnx", what, 'Write spmd.from_onnx("model.onnx").')
    try:
        return onnx.load(str(path))
    except Exception as error:
        what = f"it cannot be read: {type(error).__name__}: {error}"
        raise ShardingError(f"from_onnx, {str(path)!r}", what, "Give the path of an ONNX file.") from error


def _imported(mod: tvm.IRModule) -> ImportedModel:
    """The function without the weights that no operator reads, as those that were folded into shapes."""
    function = mod["main"]
    count = int(function.attrs["num_input"])
    used = set(relax.analysis.free_vars(function.body))
    arrays = function.attrs.get("params", [])
    named = list(zip(function.params[count:], arrays, strict=True))
    kept = [(var, array) for var, array in named if var in used]
    params = [*function.params[:count], *(var for var, _ in kept)]
    made = relax.Function(params, function.body, function.ret_ty, function.is_pure, function.without_attr("params").attrs)
    return ImportedModel(tvm.IRModule({"main": made}), {var.name: array for var, array in kept})
