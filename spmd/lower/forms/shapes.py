"""What is asked about a tensor, answered for the whole of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from .context import FormContext, form


@form("question")
def question(f: FormContext) -> Any:
    """Shapes and strides are those of the whole tensor; all else is the same for a shard."""
    value, name = f.node.inputs[0], f.node.op.rpartition(".")[2]
    if name == "shape_of":
        return f.emit(relax.ShapeExpr(list(value.dims)))
    if name == "size" and None not in value.shape:
        return relax.const(np.array(math.prod(s or 0 for s in value.shape)), "int64")
    if name == "size":
        sizes = f.emit(relax.op.shape_to_tensor(f.emit(relax.ShapeExpr(list(value.dims)))))
        return f.emit(relax.op.prod(sizes))
    if name not in ("tensor_shape_i", "tensor_stride_i"):
        return f.emit(tvm.ir.Call(f.call.op, f.args, f.call.attrs))
    axis = int(f.call.args[1].value)
    parts = value.dims[axis : axis + 1] if name == "tensor_shape_i" else value.dims[axis + 1 :]
    return f.emit(relax.prim_value(math.prod(parts)))
