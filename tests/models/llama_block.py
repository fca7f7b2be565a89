"""The Llama block on which compilers of sharded programs are compared: grouped-query attention and a gated MLP, forward and backward.

Written of operators that have gradients in TVM. Hidden 512, 8 query and 4 KV heads, FFN 1408, batch 2, sequence 16, float32, unless said.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax
from tvm.relax import op

BATCH, SEQUENCE, HIDDEN, HEADS, KV_HEADS, FFN = 2, 16, 512, 8, 4, 1408
WEIGHTS = {
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (HIDDEN, HIDDEN * KV_HEADS // HEADS),
    "v_proj": (HIDDEN, HIDDEN * KV_HEADS // HEADS),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (HIDDEN, FFN),
    "up_proj": (HIDDEN, FFN),
    "down_proj": (FFN, HIDDEN),
    "norm1": (HIDDEN,),
    "norm2": (HIDDEN,),
}


def llama_blocks(layers: int = 1, *, loss: bool = False) -> tvm.IRModule:
    """`main(x, weights...)`, weights named ``layers.0.q_proj``; with `loss` it returns the mean square of the result."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([BATCH, SEQUENCE, HIDDEN], "float32"))
    params = [relax.Var(f"layers.{i}.{name}", relax.TensorType(shape, "float32")) for i in range(layers) for name, shape in WEIGHTS.items()]
    with bb.function("main", [x, *params], attrs={"num_input": 1}):
        with bb.dataflow():
            value = x
            for i in range(layers):
                weights = dict(zip(WEIGHTS, params[i * len(WEIGHTS) :], strict=False))
                value = _block(bb, value, weights)
            if loss:
                value = bb.emit(op.mean(bb.emit(op.multiply(value, value))))
            out = bb.emit_output(value)
        bb.emit_func_output(out)
    return bb.finalize()


def with_gradients(layers: int = 1) -> tvm.IRModule:
    """`main_adjoint` of the loss: the loss, and its gradients by `x` and by every weight."""
    module = relax.transform.Gradient("main")(llama_blocks(layers, loss=True))
    del module["main"]
    return module


def _block(bb: relax.BlockBuilder, x: relax.Expr, w: dict[str, relax.Var]) -> relax.Expr:
    size = HIDDEN // HEADS

    def heads(value: relax.Expr, count: int) -> relax.Expr:
        return bb.emit(op.reshape(value, [BATCH, SEQUENCE, count, size]))

    def grouped(value: relax.Expr) -> relax.Expr:
        """Every KV head once for each query head that reads it: (batch, heads, sequence, size)."""
        wide = bb.emit(op.expand_dims(value, 3))
        wide = bb.emit(op.broadcast_to(wide, [BATCH, SEQUENCE, KV_HEADS, HEADS // KV_HEADS, size]))
        return bb.emit(op.permute_dims(heads(wide, HEADS), [0, 2, 1, 3]))

    normed = _norm(bb, x, w["norm1"])
    query = bb.emit(op.permute_dims(heads(bb.emit(op.matmul(normed, w["q_proj"])), HEADS), [0, 2, 1, 3]))
    key = grouped(heads(bb.emit(op.matmul(normed, w["k_proj"])), KV_HEADS))
    value = grouped(heads(bb.emit(op.matmul(normed, w["v_proj"])), KV_HEADS))
    scores = bb.emit(op.matmul(query, bb.emit(op.permute_dims(key, [0, 1, 3, 2]))))
    chances = bb.emit(op.nn.softmax(bb.emit(op.multiply(scores, relax.const(1 / math.sqrt(size), "float32"))), -1))
    mixed = bb.emit(op.permute_dims(bb.emit(op.matmul(chances, value)), [0, 2, 1, 3]))
    joined = bb.emit(op.reshape(mixed, [BATCH, SEQUENCE, HIDDEN]))
    x = bb.emit(op.add(x, bb.emit(op.matmul(joined, w["o_proj"]))))
    normed = _norm(bb, x, w["norm2"])
    gate = bb.emit(op.nn.silu(bb.emit(op.matmul(normed, w["gate_proj"]))))
    active = bb.emit(op.multiply(gate, bb.emit(op.matmul(normed, w["up_proj"]))))
    return bb.emit(op.add(x, bb.emit(op.matmul(active, w["down_proj"]))))


def _norm(bb: relax.BlockBuilder, x: relax.Expr, weight: relax.Expr) -> relax.Expr:
    square = bb.emit(op.mean(bb.emit(op.multiply(x, x)), -1, keepdims=True))
    root = bb.emit(op.sqrt(bb.emit(op.add(square, relax.const(1e-5, "float32")))))
    return bb.emit(op.multiply(bb.emit(op.divide(x, root)), weight))
