"""Element by element: every operator on plain, broadcast and integer arguments."""

import numpy as np
from tvm import relax

_UNARY = (
    "abs asin asinh atan ceil cos cosh erf exp floor log negative round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc "
    "nn.relu nn.silu nn.gelu nn.gelu_tanh nn.leakyrelu nn.softplus isfinite isinf isnan atanh acos"
)
_BINARY = "add subtract multiply divide power maximum minimum equal not_equal less less_equal greater greater_equal floor_mod"
_INTEGER = "bitwise_and bitwise_or bitwise_xor left_shift right_shift floor_divide floor_mod mod add multiply"
_BOOLEAN = "logical_and logical_or logical_xor"


def _op(name: str):
    found = relax.op
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _module():
    bb = relax.BlockBuilder()

    def add(name, make, *shapes, dtype="float64"):
        params = [relax.Var(f"x{i}", relax.TensorType(shape, dtype)) for i, shape in enumerate(shapes)]
        with bb.function(name, params):
            bb.emit_func_output(bb.emit(make(*params)))

    for name in _UNARY.split():
        add(name.replace("nn.", ""), _op(name), (5, 4))
    for name in _BINARY.split():
        add(name, _op(name), (5, 4), (5, 1))
    for name in _INTEGER.split():
        add(f"{name}_int", _op(name), (5, 4), (4,), dtype="int32")
    for name in _BOOLEAN.split():
        add(name, _op(name), (5, 4), (5, 4), dtype="bool")
    add("logical_not", relax.op.logical_not, (5, 4), dtype="bool")
    add("bitwise_not", relax.op.bitwise_not, (5, 4), dtype="int32")
    add("acosh", relax.op.acosh, (5, 4))
    add("log_add_exp", relax.op.log_add_exp, (5, 4), (5, 4))
    add("astype", lambda x: relax.op.astype(x, "float32"), (5, 4))
    add("clip", lambda x: relax.op.clip(x, -0.2, 0.3), (5, 4))
    add("matmul", relax.op.matmul, (3, 5, 6), (6, 7))
    add("matmul_batched", relax.op.matmul, (2, 5, 6), (2, 6, 4))
    add("matmul_vector", relax.op.matmul, (5, 6), (6,))
    params = [relax.Var("c", relax.TensorType((5, 4), "bool")), *(relax.Var(n, relax.TensorType((5, 4), "float64")) for n in "xy")]
    with bb.function("where", params):
        bb.emit_func_output(bb.emit(relax.op.where(*params)))
    return bb.finalize()


MODULE = _module()
_RNG = np.random.default_rng(0)
_POSITIVE = _RNG.uniform(0.1, 0.9, (5, 4))
ARGUMENTS = {
    "acosh": [_POSITIVE + 1],
    "power": [_POSITIVE, _RNG.uniform(-1, 2, (5, 1))],
    **{name: [_POSITIVE] for name in ("log", "sqrt", "rsqrt", "asin", "acos", "atanh")},
    **{
        f"{name}_int": [_RNG.integers(-9, 9, (5, 4)).astype("int32"), np.array([1, 2, 3, 5], "int32")]
        for name in ("floor_divide", "floor_mod", "mod")
    },
}
MISSING: dict[str, str] = {}
