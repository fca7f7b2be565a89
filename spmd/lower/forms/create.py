"""Tensors whose elements follow from their places."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from spmd.placement.dtypes import numpy_dtype

from .context import FormContext, form
from .movement import places


@form("sequence")
def sequence(f: FormContext) -> Any:
    """Arange and hamming_window: each worker takes its own numbers, which are worked out here as TVM does."""
    dtype = str(f.node.outputs[0].dtype)
    kind = numpy_dtype(dtype)
    numbers = [arg.value for arg in f.call.args]
    if f.node.op == "relax.arange":
        start, _, step = (np.array(n).astype(kind) for n in numbers)
        values = start + np.arange(f.split.size).astype(kind) * step
    else:
        size, periodic, alpha, beta = numbers
        places = np.arange(size) * (2 * np.pi / (size if periodic else size - 1))
        values = (alpha - beta * np.cos(places)).astype(kind)
    return f.own(np.append(values, np.zeros(1, kind))[f.places()])


@form("eye")
def eye(f: FormContext) -> Any:
    """Ones where the column is the row plus `k`."""
    arg = 1 if f.args else 2
    shift = int(f.call.args[arg].value) if len(f.call.args) > arg else 0
    rows, columns = (places(f, 0, i, 2, i, output=True) for i in (0, 1))
    shifted = f.emit(relax.op.add(rows, f.scalar(shift, "int64")))
    return f.emit(relax.op.astype(f.emit(relax.op.equal(shifted, columns)), str(f.node.outputs[0].dtype)))
