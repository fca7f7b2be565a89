"""From a loss to a training step in one function: gradients, summed over parts of a batch, clipped by their global norm, an optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax import op
from tvm.relax.training import optimizer as optimizers


def training_step(mod: tvm.IRModule, optimizer: Any, *, function: str = "loss", clip: float = 0.0, parts: int = 1) -> tvm.IRModule:
    """A module with one function, ``step(*inputs, *weights, *state)``, that gives the loss, then the new weights, then the new state.

    `mod` has `function`, which takes `num_input` inputs and then weights, and gives a scalar. `optimizer` is one of `relax.training`, not
    initialized. Gradients whose global norm is above `clip` are scaled to it. With several `parts`, inputs have them as a
    first dimension, and gradients are those of the mean over the parts: activations of one part at a time.
    """
    count = int(mod[function].attrs["num_input"])
    mod = relax.transform.Gradient(function, require_grads=list(mod[function].params[count:]))(mod)
    adjoint = mod[f"{function}_adjoint"].without_attr("global_symbol")
    weights = [relax.Var(var.name, var.ty) for var in adjoint.params[count:]]
    # What goes into the program below is private: calls of it are inlined.
    update = optimizer.init(weights).get_function().without_attr("global_symbol")
    state = [relax.Var(name, ty) for name, ty in zip(state_names(optimizer, weights), update.params[2].ty.fields, strict=True)]
    inputs = [relax.Var(var.name, _in_parts(var.ty, parts)) for var in adjoint.params[:count]]
    builder = relax.BlockBuilder()
    gradients, updated = builder.add_func(adjoint, "gradients"), builder.add_func(update, "update")
    emit = builder.emit
    with builder.function("step", [*inputs, *weights, *state], attrs={"num_input": count}):
        with builder.dataflow():
            losses, sums = [], []
            for i in range(parts):
                given = [_part(builder, var, i) if parts > 1 else var for var in inputs]
                made = emit(relax.Call(gradients, [*given, *weights]))
                losses.append(emit(relax.TupleGetItem(made, 0)))
                found = emit(relax.TupleGetItem(made, 1))
                each = [emit(relax.TupleGetItem(found, j)) for j in range(len(weights))]
                sums = [emit(op.add(a, b)) for a, b in zip(sums, each, strict=True)] if sums else each
            loss = losses[0]
            for other in losses[1:]:
                loss = emit(op.add(loss, other))
            if parts > 1:
                loss, *sums = (emit(op.divide(value, relax.const(float(parts), "float32"))) for value in (loss, *sums))
            sums = _clipped(builder, sums, clip) if clip else sums
            new = emit(relax.Call(updated, [relax.Tuple(weights), relax.Tuple(sums), relax.Tuple(state)]))
            after = [
                emit(relax.TupleGetItem(emit(relax.TupleGetItem(new, i)), j)) for i, n in ((0, weights), (1, state)) for j in range(len(n))
            ]
            result = builder.emit_output(relax.Tuple([loss, *after]))
        builder.emit_func_output(result)
    return builder.finalize()


class Adam(optimizers.Adam):
    """TVM's, whose `init` fails in this version: it takes the dtype of its weights for one of NumPy."""

    def init(self, params: Any) -> Adam:
        self._set_params_and_dtype(list(params))
        self.dtype = str(self.dtype.dtype)
        scalars = [np.zeros((), "int64"), np.ones((), self.dtype), np.ones((), self.dtype)]
        moments = [np.zeros(tuple(map(int, var.ty.shape.values)), self.dtype) for var in (*params, *params)]
        self.state = tuple(map(tvm.runtime.tensor, (*scalars, *moments)))
        return self


def state_names(optimizer: Any, weights: list[Any]) -> list[str]:
    """Names of the state of an optimizer: its scalars, then for each kind one a weight, as ``embed.weight.1``."""
    kinds, scalars = divmod(len(optimizer.state), len(weights))
    numbered = [f"optimizer.{i}" for i in range(scalars)]
    return [*numbered, *(f"{var.name}.{kind + 1}" for kind in range(kinds) for var in weights)]


def state_at_start(optimizer: Any, mod: tvm.IRModule, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights, and the state that `optimizer` begins with, under the names that the parameters of the step have."""
    names = [var.name for var in mod["step"].params[-len(optimizer.state) :]]
    return {**weights, **{name: value.numpy() for name, value in zip(names, optimizer.state, strict=True)}}


def _clipped(builder: relax.BlockBuilder, gradients: list[Any], most: float) -> list[Any]:
    """The gradients, scaled where the norm of all together is above `most`."""
    emit = builder.emit
    squares = [emit(op.sum(emit(op.multiply(g, g)))) for g in gradients]
    total = squares[0]
    for other in squares[1:]:
        total = emit(op.add(total, other))
    norm = emit(op.sqrt(total))
    scale = emit(op.minimum(relax.const(1.0), emit(op.divide(relax.const(most), emit(op.add(norm, relax.const(1e-6)))))))
    return [emit(op.multiply(g, scale)) for g in gradients]


def _in_parts(ty: Any, parts: int) -> Any:
    return ty if parts == 1 else relax.TensorType([parts, *ty.shape.values], ty.dtype)


def _part(builder: relax.BlockBuilder, var: Any, i: int) -> Any:
    return builder.emit(op.squeeze(builder.emit(op.strided_slice(var, [0], [i], [i + 1])), [0]))
