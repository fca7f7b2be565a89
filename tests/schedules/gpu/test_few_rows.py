"""Products of few rows: right numbers on each side of each bound, by pocl, with weights as they are and packed."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax, tirx

from spmd import schedules
from spmd.schedules.gpu import FEW
from tests.pocl import on_pocl
from tests.schedules.kernels import dequantize, module, normal, unpack

ROWS = (2, 3, 8, 9)


def product(builder: relax.BlockBuilder, args: list[relax.Var]) -> relax.Expr:
    """A Linear with an activation; its weight is packed where there is a scale for it."""
    weight = dequantize(builder, args[1], args[2], "float32") if len(args) == 3 else args[1]
    return builder.emit(relax.op.nn.silu(builder.emit(relax.op.matmul(args[0], builder.emit(relax.op.permute_dims(weight))))))


@pytest.mark.parametrize(("outputs", "inputs", "packed"), [(64, 128, False), (33, 64, True)])
def test_any_number_of_rows(outputs: int, inputs: int, packed: bool) -> None:
    weights = [normal(1, (outputs, inputs), "float32")]
    if packed:
        words = np.random.default_rng(0).integers(0, 2**32, (outputs, inputs // 8), "uint32")
        weights = [words, normal(2, (outputs, inputs // 32), "float32")]
    given = [((1, "n", inputs), "float32"), *((array.shape, str(array.dtype)) for array in weights)]
    whole = unpack(*weights) if packed else weights[0].astype("float64")
    with on_pocl(module(given, product)) as workers:
        for rows in ROWS:
            x = normal(rows, (1, rows, inputs), "float32")
            wanted = x @ whole.T
            np.testing.assert_allclose(workers["main"](x, *weights), wanted / (1 + np.exp(-wanted)), rtol=1e-3, atol=1e-3)


def rules(rows: int | str, more: int | str = 1) -> list[tuple[str, int]]:
    """The rule of the kernel, and up to how many rows there are others."""
    mod = module([((more, rows, 64), "float32"), ((64, 64), "float32")], product)
    built = schedules.pipeline(schedules.resolve("opencl"))(mod)
    kernels = [f for _, f in built.functions_items() if isinstance(f, tirx.PrimFunc) and "spmd.schedule_rule" in f.attrs]
    return [(str(f.attrs["spmd.schedule_rule"]), int(f.attrs.get(FEW, 0))) for f in kernels]


def test_only_products_of_one_symbolic_size_have_them() -> None:
    assert rules("n") == [("Matmul", 8)]
    assert [few for _, few in rules(1) + rules(16) + rules("n", "m")] == [0, 0, 0]
