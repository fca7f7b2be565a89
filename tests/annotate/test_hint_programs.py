"""Hints on results of every kind of operator: what they ask for is obeyed, and the numbers stay."""

import pytest
from tvm import relax

import spmd
from spmd import P
from spmd.testing import assert_equivalent

OPS = {
    "parameter": lambda bb, x: x,
    "pointwise": lambda bb, x: relax.op.exp(x),
    "product": lambda bb, x: relax.op.matmul(x, relax.op.permute_dims(x)),
    "softmax": lambda bb, x: relax.op.nn.softmax(x, axis=1),
    "reshape": lambda bb, x: relax.op.reshape(x, (12, 4)),
    "sum": lambda bb, x: relax.op.sum(x, axis=[1], keepdims=True),
    "cumulative sum": lambda bb, x: relax.op.cumsum(x, axis=0),
    "sort": lambda bb, x: relax.op.sort(x, axis=0),
    "cast": lambda bb, x: relax.op.astype(x, "float16"),
}


def hinted(name, spec):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((6, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(builder.normalize(OPS[name](builder, x)), "y")
            z = builder.emit(spmd.hint(y, spec), "z")
            u = builder.emit(relax.op.add(z, z), "u")
            out = builder.emit_output(relax.Tuple([u, builder.emit(relax.op.sum(y))]))
        builder.emit_func_output(out)
    return builder.finalize()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("spec", [P("tp", None), P(None, None)], ids=str)
def test_a_hint_on_any_result(name, spec):
    sharded = assert_equivalent(hinted(name, spec), 4)
    assert str(sharded.plan.values["main.z"]) == ("[tp, -]" if spec == P("tp", None) else "[-, -]")
