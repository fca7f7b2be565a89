"""Every strategy of one operator of each kind in every dtype that Relax has, on 3 workers with uneven sizes.

What only moves elements must give the very same ones; what computes is compared as everywhere.
"""

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax

from spmd.run.workers import workers
from spmd.testing import prove

op, nn = relax.op, relax.op.nn
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
NARROW = ("float8_e4m3fn", "float8_e5m2")
RARE = ("int16", "uint16", "uint32", "uint64", "float8_e5m2")
"""Run by themselves, as they take the ways of others."""
DTYPES = [pytest.param(d, marks=pytest.mark.slow if d in RARE else ()) for d in ("bool", *INTEGERS, *FLOATS, *NARROW)]
UNSORTED = ("bool", "bfloat16", *NARROW)
"""TVM refuses to sort these, or sorts them wrongly."""
ROWS = ((5, 7),)
INDICES = ((3, 5), "int64")

MOVES = {
    "concat": (lambda a, b: op.concat([a, b], axis=1), ((5, 7), (5, 4))),
    "reshape": (lambda a: op.reshape(a, (35,)), ROWS),
    "permute_dims": (lambda a: op.permute_dims(a), ROWS),
    "take": (lambda a, i: op.take(a, i, axis=0), ((7, 5), ((3,), "int32"))),
    "gather_elements": (lambda a, i: op.gather_elements(a, i, axis=0), ((7, 5), INDICES)),
    "scatter_elements": (lambda a, i, u: op.scatter_elements(a, i, u, axis=0), ((7, 5), INDICES, (3, 5))),
    "tril": (lambda a: op.tril(a), ROWS),
    "flip": (lambda a: op.flip(a, axis=1), ROWS),
    "pad": (lambda a: nn.pad(a, [0, 0, 2, 3]), ROWS),
    "pad_reflect": (lambda a: nn.pad(a, [0, 0, 2, 3], pad_mode="reflect"), ROWS),
    "strided_slice": (lambda a: op.strided_slice(a, [1], [6], [0], [-2]), ROWS),
    "where": (lambda c, a, b: op.where(c, a, b), (((5, 7), "bool"), (5, 7), (7,))),
}
ANY = {"sum": (lambda a: op.sum(a, axis=[1]), ROWS), "astype": (lambda a: op.astype(a, "float32"), ROWS)}
NUMBERS = {
    "add": (op.add, ((5, 7), (5, 1))),
    "multiply": (op.multiply, ((5, 7), (7,))),
    "maximum": (op.maximum, ((5, 7), (7,))),
    "equal": (op.equal, ((5, 7), (7,))),
    "divide": (op.divide, ((5, 7), (7,))),
    "max": (lambda a: op.max(a, axis=[1]), ROWS),
    "min": (lambda a: op.min(a, axis=[0]), ROWS),
    "prod": (lambda a: op.prod(a, axis=[1]), ROWS),
    "mean": (lambda a: op.mean(a, axis=[1]), ROWS),
    "variance": (lambda a: op.variance(a, axis=[1]), ROWS),
    "matmul": (op.matmul, ((5, 7), (7, 4))),
    "cumsum": (lambda a: op.cumsum(a, axis=1), ROWS),
    "scatter_max": (lambda a, i, u: op.scatter_elements(a, i, u, axis=0, reduction="max"), ((7, 5), INDICES, (3, 5))),
    "max_pool1d": (lambda a: nn.max_pool1d(a, 3, 1, 1), ((2, 4, 7),)),
    "avg_pool1d": (lambda a: nn.avg_pool1d(a, 3, 1, 1), ((2, 4, 7),)),
    "conv1d": (lambda a, w: nn.conv1d(a, w, padding=1), ((2, 4, 7), (3, 4, 3))),
    "nll_loss": (lambda a, t: nn.nll_loss(a, t, reduction="mean"), ((5, 7), ((5,), "int32"))),
    "attention": (nn.attention, ((2, 5, 4, 8), (2, 7, 4, 8), (2, 7, 4, 6))),
    "std": (lambda a: op.std(a, axis=[1]), ROWS),
}
WIDE = {
    "softmax": (lambda a: nn.softmax(a, axis=1), ROWS),
    "rms_norm": (lambda a, w: nn.rms_norm(a, w, axes=[-1]), ((5, 7), (7,))),
}
SORTED = {"argmax": (lambda a: op.argmax(a, axis=1), ROWS), "topk": (lambda a: op.topk(a, 2, axis=1), ROWS)}
REFUSED = {
    "attention": INTEGERS,
    "std": ("uint64",),
    "topk": ("int16", "uint16", "uint32", "uint64"),
    "rms_norm": ("float64",),
}
"""What TVM cannot compute or run unsharded; its rms_norm of float64 is one of float32."""


def operators(dtype):
    """All that TVM can do in this dtype."""
    found = ({} if dtype in NARROW else MOVES) | ANY | ({} if dtype == "bool" else NUMBERS) | (WIDE if dtype in FLOATS else {})
    found |= {} if dtype in UNSORTED else SORTED
    return {name: row for name, row in found.items() if dtype not in REFUSED.get(name, ())}


def module(rows, dtype):
    """One function an operator; an operand that says no dtype has this one."""
    builder = relax.BlockBuilder()
    for name, (make, shapes) in rows.items():
        types = [relax.TensorType(*s) if isinstance(s[0], tuple) else relax.TensorType(s, dtype) for s in shapes]
        params = [relax.Var(f"x{i}", ty) for i, ty in enumerate(types)]
        with builder.function(name, params):
            builder.emit_func_output(builder.emit(make(*params)))
    return builder.finalize()


def arguments(rows, dtype):
    """Numbers that every dtype has exactly, negative ones where there are such; no zeros to divide by."""
    rng, kind = np.random.default_rng(0), np.dtype(getattr(ml_dtypes, dtype, dtype))

    def array(shape, least):
        if isinstance(shape[0], tuple):
            return rng.integers(0, 2 if shape[1] == "bool" else 3, shape[0]).astype(shape[1])
        return rng.integers(least, 4, shape).astype(kind)

    signed = 0 if dtype.startswith(("u", "b")) else -3
    return {name: [array(s, 1 if name == "divide" else signed) for s in shapes] for name, (_, shapes) in rows.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_strategy_is_right_in(dtype):
    rows = operators(dtype)
    wrong = [v for v in prove(module(rows, dtype), 3, arguments=arguments(rows, dtype)) if v.status != "right"]
    if dtype in NARROW:  # rounding terms that are larger than their sum is more than 8 bits can bear
        wrong = [v for v in wrong if not any("sum@" in placement for placement in v.inputs)]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("dtype", NARROW)
def test_what_moves_elements_gives_the_same_ones_in(dtype):
    wrong = [v for v in prove(module(MOVES, dtype), 3, arguments=arguments(MOVES, dtype), tolerance=0) if v.status != "right"]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("dtype", ["bfloat16", *NARROW])
def test_tvm_itself_does_not_sort(dtype):
    data = np.random.default_rng(0).normal(0, 1, (5, 7)).astype(np.dtype(getattr(ml_dtypes, dtype)))
    with workers(module({"sort": (lambda a: op.sort(a, axis=1), ROWS)}, dtype)) as one:
        assert not np.array_equal(one["sort"](data).astype("float32"), np.sort(data.astype("float32"), axis=1))


def test_the_dtypes_are_all_that_relax_computes_in():
    assert {tvm.DataType(d).bits for d in (*INTEGERS, *FLOATS, *NARROW)} == {8, 16, 32, 64}
