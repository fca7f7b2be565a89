"""Small Relax modules for the tests of schedules, and one way to run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.relax.frontend import nn

from spmd import schedules

Build = Callable[[relax.BlockBuilder, list[relax.Var]], relax.Expr]


def module(inputs: list[tuple[tuple[int | str, ...], str]], body: Build) -> tvm.IRModule:
    """A module whose `main` takes tensors of these shapes (a string is a symbolic size) and returns what `body` emits."""
    symbols: dict[str, tirx.Var] = {}
    params = []
    for i, (shape, dtype) in enumerate(inputs):
        sizes = [symbols.setdefault(s, tirx.Var(s, "int64")) if isinstance(s, str) else s for s in shape]
        params.append(relax.Var(f"x{i}", relax.TensorType(sizes, dtype)))
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder, params))
        builder.emit_func_output(result)
    return builder.finalize()


def run(mod: tvm.IRModule, arrays: list[np.ndarray], *, parallel: bool = False, name: str = "main") -> np.ndarray:
    """Build with our schedules and call."""
    machine = relax.VirtualMachine(schedules.build(mod, parallel=parallel), tvm.cpu())
    return machine[name](*[tvm.runtime.tensor(a) for a in arrays]).numpy()


def scheduled(mod: tvm.IRModule, parallel: bool = False) -> dict[str, tirx.PrimFunc]:
    """The PrimFuncs of `mod` after legalization, fusion and CPU scheduling."""
    target = schedules.resolve("llvm")
    fuse = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        schedules.FuseProducers(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        schedules.WidenHalf(),
        schedules.CPUSchedules(parallel=parallel),
    ]
    with target:
        lowered = tvm.transform.Sequential(fuse)(mod)
    return {v.name_hint: f for v, f in lowered.functions_items() if isinstance(f, tirx.PrimFunc)}


def rules(mod: tvm.IRModule, parallel: bool = False) -> set[str]:
    """The names of the rules that scheduled the kernels of `mod`."""
    return {str(f.attrs["spmd.schedule_rule"]) for f in scheduled(mod, parallel).values()}


def kernel_code(executable: Any) -> str:
    """The assembly of the kernels of an executable."""
    found: list[str] = []

    def see(module: Any) -> None:
        if module.kind == "llvm":
            found.append(module.inspect_source("asm"))
        for other in module.imports:
            see(other)

    see(executable.mod)
    return "\n".join(found)


def normal(seed: int, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> np.ndarray:
    """Standard normal values."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def dequantize(builder: relax.BlockBuilder, words: relax.Expr, scales: relax.Expr, dtype: str) -> relax.Expr:
    """w[n, k] from uint32 words[n, k / 8] and scales[n, k / 32]: 4 bits each, 7 is zero."""

    def compute(packed: te.Tensor, scale: te.Tensor) -> te.Tensor:
        def one(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
            shift = tirx.Cast("uint32", tirx.floormod(j, 8) * 4)
            bits = tirx.bitwise_and(tirx.shift_right(packed[i, tirx.floordiv(j, 8)], shift), tirx.const(15, "uint32"))
            return (bits.astype(dtype) - tirx.const(7, dtype)) * scale[i, tirx.floordiv(j, 32)]

        return te.compute((packed.shape[0], packed.shape[1] * 8), one, name="dequantize")

    return builder.emit_te(compute, words, scales, primfunc_name_hint="dequantize")


def unpack(words: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What `dequantize` computes, in float64."""
    shifts = np.arange(8, dtype="uint32") * 4
    bits = (words[:, :, None] >> shifts & 15).reshape(len(words), -1).astype("float64")
    return (bits - 7) * np.repeat(scales.astype("float64"), 32, axis=1)


class MLP(nn.Module):
    """Norm, gate and up in one product, silu, down, residual."""

    def __init__(self, hidden: int, inner: int, dtype: str):
        self.norm = nn.RMSNorm(hidden, -1, bias=False, dtype=dtype)
        self.up = nn.Linear(hidden, 2 * inner, bias=False, dtype=dtype)
        self.down = nn.Linear(inner, hidden, bias=False, dtype=dtype)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x[.., hidden] to the same shape."""
        gate, up = nn.split(self.up(self.norm(x)), 2, axis=-1)
        return x + self.down(nn.silu(gate) * up)


def mlp(hidden: int, inner: int, dtype: str = "float32") -> tvm.IRModule:
    """An MLP with `prefill` (symbolic length) and `decode` (length 1)."""
    model = MLP(hidden, inner, dtype)
    model.prefill = model.forward
    model.decode = model.forward
    spec = {
        "prefill": {"x": nn.spec.Tensor([1, "s", hidden], dtype)},
        "decode": {"x": nn.spec.Tensor([1, 1, hidden], dtype)},
    }
    return model.export_tvm(spec)[0]
