"""Reductions, norms, softmax, elementwise and indexing against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from spmd import schedules
from tests.schedules.kernels import dequantize, module, normal, rules, run, scheduled, unpack

Op = Callable[..., relax.Expr]


def unary(shape: tuple[int | str, ...], op: Op, dtype: str = "float32") -> tvm.IRModule:
    return module([(shape, dtype)], lambda _builder, args: op(args[0]))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    exp = np.exp(x - x.max(axis, keepdims=True))
    return exp / exp.sum(axis, keepdims=True)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", [(2, 5, 33), (1, 1, 1), (1, "s", 64), (3, 4, "n")])
def test_softmax(shape: tuple[int | str, ...], axis: int) -> None:
    mod = unary(shape, lambda x: relax.op.nn.softmax(x, axis=axis))
    machine = relax.VirtualMachine(schedules.build(mod), tvm.cpu())
    for size in (1, 7, 40) if any(isinstance(s, str) for s in shape) else (0,):
        x = normal(size, tuple(size if isinstance(s, str) else s for s in shape), "float32", 3)
        x.flat[0] = 80
        result = machine["main"](tvm.runtime.tensor(x)).numpy()
        np.testing.assert_allclose(result, softmax(x, axis), rtol=1e-5, atol=1e-6)


def test_softmax_keeps_masked_and_invalid_values() -> None:
    """Sums may be regrouped, but infinity masks and NaN spreads: no flag may assume them away."""
    x = normal(1, (3, 37), "float32")
    x[0, 5:30] = -np.inf
    x[1, 3] = np.nan
    result = run(unary((3, 37), lambda a: relax.op.nn.softmax(a, axis=-1)), [x])
    np.testing.assert_allclose(result[[0, 2]], softmax(x[[0, 2]], -1), rtol=1e-5, atol=1e-7)
    assert np.isnan(result[1]).any()
    total = run(unary((2, 64), relax.op.sum), [np.array([[np.inf] * 64, [-np.inf] * 64], "float32")])
    assert np.isnan(total)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 5, "s"])
@pytest.mark.parametrize("size", [1, 33, 576])
def test_rms_norm(size: int, rows: int | str, dtype: str) -> None:
    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        return relax.op.nn.rms_norm(args[0], args[1], axes=[-1], epsilon=1e-5)

    mod = module([((1, rows, size), dtype), ((size,), dtype)], body)
    x, weight = normal(1, (1, 6 if rows == "s" else int(rows), size), dtype), normal(2, (size,), dtype)
    wide = x.astype("float64")
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight.astype("float64")
    tolerance = 1e-5 if dtype == "float32" else 4e-3
    np.testing.assert_allclose(run(mod, [x, weight]), expected, rtol=tolerance, atol=tolerance)


REDUCTIONS = {
    "sum": (relax.op.sum, np.sum),
    "max": (relax.op.max, np.max),
    "min": (relax.op.min, np.min),
    "mean": (relax.op.mean, np.mean),
    "prod": (relax.op.prod, np.prod),
}


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(REDUCTIONS)),
    st.lists(st.integers(1, 18), min_size=1, max_size=3),
    st.sets(st.integers(0, 2), min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_any_reduction(name: str, shape: list[int], axes: set[int], keepdims: bool, parallel: bool) -> None:
    ours, theirs = REDUCTIONS[name]
    axis = sorted({a % len(shape) for a in axes})
    x = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype("float32")
    mod = unary(tuple(shape), lambda a: ours(a, axis=axis, keepdims=keepdims))
    result = run(mod, [x], parallel=parallel)
    np.testing.assert_allclose(result, theirs(x.astype("float64"), axis=tuple(axis), keepdims=keepdims), rtol=1e-4)


@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_index_of_extreme(op: str) -> None:
    x = normal(3, (4, 35), "float32")
    result = run(unary((4, 35), lambda a: getattr(relax.op, op)(a, axis=1)), [x])
    np.testing.assert_array_equal(result, getattr(np, op)(x, axis=1))


def test_centred_and_normalized() -> None:
    """A reduction that later steps read again: layer norm, and a mean taken off by hand."""

    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        x, gamma, beta = args
        normed = builder.emit(relax.op.nn.layer_norm(x, gamma, beta, axes=[-1]))
        return relax.op.subtract(normed, builder.emit(relax.op.mean(normed, axis=[0], keepdims=True)))

    mod = module([((5, 31), "float32"), ((31,), "float32"), ((31,), "float32")], body)
    x, gamma, beta = normal(1, (5, 31), "float32"), normal(2, (31,), "float32"), normal(3, (31,), "float32")
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta
    np.testing.assert_allclose(run(mod, [x, gamma, beta]), normed - normed.mean(0, keepdims=True), rtol=1e-4, atol=1e-5)


def test_take_split_concat_cumsum_sort() -> None:
    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        table, ids = args
        rows = builder.emit(relax.op.take(table, ids, axis=0))
        left, right = (builder.emit(relax.op.strided_slice(rows, [1], [a], [b])) for a, b in ((0, 5), (5, 12)))
        joined = builder.emit(relax.op.concat([right, left], axis=1))
        return relax.op.sort(builder.emit(relax.op.cumsum(joined, axis=1)), axis=1)

    mod = module([((50, 12), "float32"), (("s",), "int32")], body)
    table, ids = normal(1, (50, 12), "float32"), np.array([0, 49, 7, 7], "int32")
    joined = np.concatenate([table[ids][:, 5:], table[ids][:, :5]], axis=1)
    np.testing.assert_allclose(run(mod, [table, ids]), np.sort(joined.cumsum(1), axis=1), rtol=1e-5, atol=1e-5)


def test_rows_of_a_packed_table_are_decoded_alone() -> None:
    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        words, scales, ids = args
        return relax.op.take(dequantize(builder, words, scales, "float16"), ids, axis=0)

    mod = module([((40, 8), "uint32"), ((40, 2), "float16"), (("s",), "int32")], body)
    words = np.random.default_rng(5).integers(0, 2**32, (40, 8), dtype="uint32")
    scales, ids = normal(6, (40, 2), "float16", 0.1), np.array([39, 0, 7], "int32")
    np.testing.assert_allclose(run(mod, [words, scales, ids]), unpack(words, scales)[ids], rtol=1e-3, atol=1e-4)
    (kernel,) = scheduled(mod).values()
    assert "sblock_alloc_buffer" not in kernel.script()  # no decoded table


def test_explicit_casts_round() -> None:
    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        narrow = builder.emit(relax.op.astype(args[0], "float16"))
        return relax.op.astype(narrow, "float32")

    x = normal(1, (9,), "float32")
    np.testing.assert_array_equal(run(module([((9,), "float32")], body), [x]), x.astype("float16").astype("float32"))


def test_which_rule() -> None:
    assert rules(unary((4, 64), lambda x: relax.op.nn.softmax(x, axis=-1))) == {"Rowwise"}
    assert rules(unary((4, 64), lambda x: relax.op.sum(x, axis=[1]))) == {"Reduction"}
    assert rules(unary((4, 64), relax.op.nn.silu)) == {"Fallback"}
