"""Products against NumPy: both layouts, every row count, awkward sizes, half precision, packed weights, epilogues."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, tirx

from spmd import schedules
from spmd.collectives.cores import compute_with
from spmd.schedules.cpu.matmul import vector_bits
from tests.schedules.kernels import dequantize, kernel_code, module, normal, rules, run, scheduled, unpack

ROWS = (1, 2, 3, 7, 16, 33, 129)
TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


def product(rows: int | str, k: int, n: int, transposed: bool, dtype: str) -> tvm.IRModule:
    """silu(x @ w + bias), w as [n, k] or [k, n]."""

    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        x, w, bias = args
        right = builder.emit(relax.op.permute_dims(w)) if transposed else w
        return relax.op.nn.silu(builder.emit(relax.op.add(builder.emit(relax.op.matmul(x, right)), bias)))

    return module([((rows, k), dtype), ((n, k) if transposed else (k, n), dtype), ((n,), dtype)], body)


def arrays(rows: int, k: int, n: int, transposed: bool, dtype: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Inputs of `product` and what it must give."""
    scale = k**-0.5
    x, w, bias = (
        normal(1, (rows, k), dtype),
        normal(2, (n, k) if transposed else (k, n), dtype, scale),
        normal(3, (n,), dtype),
    )
    wide = w.astype("float64")
    y = x.astype("float64") @ (wide.T if transposed else wide) + bias.astype("float64")
    return [x, w, bias], y / (1 + np.exp(-y))


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("k", "n"), [(576, 96), (64, 577), (577, 64), (64, 1), (1, 48), (33, 2)])
def test_symbolic_rows(k: int, n: int, dtype: str, transposed: bool) -> None:
    executable = schedules.build(product("m", k, n, transposed, dtype))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    for rows in ROWS:
        inputs, expected = arrays(rows, k, n, transposed, dtype)
        result = machine["main"](*[tvm.runtime.tensor(a) for a in inputs]).numpy()
        np.testing.assert_allclose(result, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("k", "n", "dtype"), [(576, 96, "float32"), (577, 577, "float32"), (96, 33, "float16")])
def test_static_rows(rows: int, k: int, n: int, dtype: str, transposed: bool) -> None:
    inputs, expected = arrays(rows, k, n, transposed, dtype)
    result = run(product(rows, k, n, transposed, dtype), inputs)
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.booleans(), st.booleans())
def test_any_shape(rows: int, k: int, n: int, transposed: bool, symbolic: bool, parallel: bool) -> None:
    inputs, expected = arrays(rows, k, n, transposed, "float32")
    mod = product("m" if symbolic else rows, k, n, transposed, "float32")
    np.testing.assert_allclose(run(mod, inputs, parallel=parallel), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_which_rule(transposed: bool, parallel: bool) -> None:
    assert rules(product("m", 256, 512, transposed, "float32"), parallel) == {"Matmul"}
    assert rules(product(1, 256, 512, transposed, "float32"), parallel) == {"Reduction"}
    assert rules(product("m", 256, 512, transposed, "float16"), parallel) == {"Matmul"}


@pytest.mark.parametrize(("cpu", "bits"), [("x86-64", 128), ("haswell", 256), ("znver3", 256), ("skylake-avx512", 512)])
def test_the_width_of_vectors_is_that_of_the_cpu(cpu: str, bits: int) -> None:
    assert vector_bits(schedules.resolve({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu})) == bits


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 24, "m"])
def test_on_several_threads(rows: int | str, transposed: bool) -> None:
    """With work enough for threads, which share it."""
    mod = product(rows, 256, 512, transposed, "float32")
    machine = relax.VirtualMachine(schedules.build(mod, parallel=True), tvm.cpu())
    for m in (3, 16, 17, 40) if rows == "m" else (int(rows),):
        inputs, expected = arrays(m, 256, 512, transposed, "float32")
        given = [tvm.runtime.tensor(a) for a in inputs]
        with ThreadPoolExecutor(1) as apart:  # TVM has a pool for each thread that calls, which this one keeps as it was
            apart.submit(compute_with, 2).result()
            result = apart.submit(lambda given=given: machine["main"](*given).numpy()).result()
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_few_of_many_rows_do_not_copy_the_weight() -> None:
    """The kernel of a symbolic number of rows has loops for few of them, which read the weight as it is."""
    (kernel,) = scheduled(product("m", 256, 512, True, "float32")).values()
    choice = kernel.body.block.body
    assert isinstance(choice, tirx.IfThenElse)
    copies = [
        [buffer.shape for buffer in part.block.alloc_buffers if list(buffer.shape) == [256, 512]]
        for part in (choice.then_case, choice.else_case)
    ]
    assert [len(found) for found in copies] == [0, 1]


def test_a_tile_stays_in_registers() -> None:
    """Six rows of two vectors are 12 sums, of 16 registers: TVM's width for every x86 made 32 of them, most of which went to memory."""
    target = schedules.resolve({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"})
    code = kernel_code(schedules.build(product("m", 256, 512, True, "float32"), target))
    loops = [part for part in re.split(r"\n(?=\.LBB)", code) if part.count("vfmadd") == 12]
    assert loops and not any("rsp" in line for part in loops for line in part.splitlines() if "vmov" in line or "vfmadd" in line)


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [("m", "n"), ("m", 7), (5, "n"), (1, "n")])
def test_attention_scores_and_values(rows: int | str, columns: int | str, swap: bool) -> None:
    """Batched products whose sizes are all symbolic: q @ k^T, then @ v; the key in either layout."""
    key = (2, 3, columns, 8) if swap else (2, 3, 8, columns)

    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        q, k, v = args
        right = builder.emit(relax.op.permute_dims(k, [0, 1, 3, 2])) if swap else k
        scores = builder.emit(relax.op.nn.softmax(builder.emit(relax.op.matmul(q, right)), axis=-1))
        return relax.op.matmul(scores, v)

    mod = module([((2, 3, rows, 8), "float32"), (key, "float32"), ((2, 3, columns, 8), "float32")], body)
    machine = relax.VirtualMachine(schedules.build(mod), tvm.cpu())
    for m, n in [(5, 7), (1, 1), (4, 9)]:
        m, n = m if rows == "m" else int(rows), n if columns == "n" else int(columns)
        q, v = normal(1, (2, 3, m, 8), "float32"), normal(3, (2, 3, n, 8), "float32")
        k = normal(2, (2, 3, n, 8) if swap else (2, 3, 8, n), "float32")
        scores = np.exp(q @ (k.swapaxes(-1, -2) if swap else k))
        expected = scores / scores.sum(-1, keepdims=True) @ v
        result = machine["main"](*[tvm.runtime.tensor(a) for a in (q, k, v)]).numpy()
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rows", [1, 5, "m"])
def test_packed_weights(rows: int | str, dtype: str) -> None:
    """q4f16_1: the weight is decoded inside the product, never stored whole."""
    n, k = 48, 128

    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        x, words, scales = args
        w = builder.emit(relax.op.permute_dims(dequantize(builder, words, scales, dtype)))
        return relax.op.nn.silu(builder.emit(relax.op.matmul(x, w)))

    mod = module([((rows, k), dtype), ((n, k // 8), "uint32"), ((n, k // 32), dtype)], body)
    words = np.random.default_rng(5).integers(0, 2**32, (n, k // 8), dtype="uint32")
    scales = np.abs(normal(6, (n, k // 32), dtype, 0.02))
    for m in (1, 5, 9) if rows == "m" else (int(rows),):
        x = normal(7, (m, k), dtype)
        y = x.astype("float64") @ unpack(words, scales).T
        np.testing.assert_allclose(run(mod, [x, words, scales]), y / (1 + np.exp(-y)), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert rules(mod) == {"Reduction"} if rows == 1 else {"Matmul"}


def test_half_sums_accumulate_in_float32() -> None:
    """4096 times 1 + 2^-10: a float16 sum would stop growing at 2048."""
    k = 4096
    inputs = [np.ones((1, k), "float16"), np.full((2, k), 1 + 2**-10, "float16"), np.zeros(2, "float16")]
    mod = product(1, k, 2, True, "float16")
    np.testing.assert_allclose(run(mod, inputs), k * (1 + 2**-10), rtol=1e-3)


def test_weight_used_elsewhere_is_not_absorbed() -> None:
    def body(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
        x, w = args
        turned = builder.emit(relax.op.permute_dims(w))
        return relax.op.add(builder.emit(relax.op.matmul(x, turned)), builder.emit(relax.op.sum(turned)))

    mod = module([((3, 8), "float32"), ((5, 8), "float32")], body)
    x, w = normal(1, (3, 8), "float32"), normal(2, (5, 8), "float32")
    np.testing.assert_allclose(run(mod, [x, w]), x @ w.T + w.sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [2, 6])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 2), (0, 2)])
def test_a_slice_of_what_follows_a_product(size: int, first: int, last: int) -> None:
    """Merged with the step before it, a slice of one column was written over by all others."""

    def body(builder: relax.BlockBuilder, inputs: list[relax.Var]) -> relax.Expr:
        made = builder.emit(relax.op.tanh(builder.emit(relax.op.matmul(*inputs))))
        return builder.emit(relax.op.strided_slice(made, [1], [first], [last]))

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 4)), rng.standard_normal((4, size))
    found = run(module([((8, 4), "float64"), ((4, size), "float64")], body), [a, b])
    np.testing.assert_allclose(found, np.tanh(a @ b)[:, first:last], atol=1e-12)
