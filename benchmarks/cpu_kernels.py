"""CPU kernels side by side in one run: NumPy, TVM's default pipeline, and ours, on one thread each.

    python benchmarks/cpu_kernels.py [--quick] [--only TEXT]

Each line: the kernel, NumPy's best time, its rate, and how many times longer the other two take (below 1 is faster).
The candidates take turns, so that whatever else the machine does hits all of them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import tvm
from tvm import relax
from tvm.relax.frontend import nn

from spmd import schedules


@dataclass(frozen=True)
class Case:
    """x[rows, k] times a weight: `transposed` means W[n, k], as nn.Linear has it; otherwise W[k, n]."""

    rows: int
    k: int
    n: int
    transposed: bool = True
    symbolic: bool = False
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """One line for a table."""
        layout = "x @ W.T" if self.transposed else "x @ W"
        rows = f"m={self.rows}" + (" (symbolic)" if self.symbolic else "")
        return f"{layout:8}{self.k}x{self.n} {rows} {self.dtype}"


CASES = [
    *[Case(1, k, n, transposed) for k, n in ((2048, 5632), (576, 49152), (576, 1536)) for transposed in (True, False)],
    Case(1, 2048, 5632, dtype="float16"),
    *[Case(128, 2048, 5632, transposed, symbolic) for transposed in (True, False) for symbolic in (False, True)],
    Case(128, 576, 1536, symbolic=True),
    Case(128, 2048, 5632, symbolic=True, dtype="float16"),
]


class Product(nn.Module):
    """One matmul with a weight in either layout."""

    def __init__(self, case: Case):
        self.case = case
        self.weight = nn.Parameter((case.n, case.k) if case.transposed else (case.k, case.n), case.dtype)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x[rows, k] to [rows, n]."""
        return nn.matmul(x, nn.permute_dims(self.weight) if self.case.transposed else self.weight)


def module(case: Case) -> tvm.IRModule:
    """The case as a Relax module with one function, `forward`."""
    shape = ["m" if case.symbolic else case.rows, case.k]
    return Product(case).export_tvm({"forward": {"x": nn.spec.Tensor(shape, case.dtype)}})[0]


def measure(candidates: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The best time of each candidate, in seconds; they take turns."""
    best = dict.fromkeys(candidates, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def compare(case: Case, seconds: float) -> str:
    """One line of the table."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((case.rows, case.k)).astype(case.dtype)
    shape = (case.n, case.k) if case.transposed else (case.k, case.n)
    weight = generator.standard_normal(shape).astype(case.dtype)
    wide, wide_weight = x.astype("float32"), weight.astype("float32")
    inputs = [tvm.runtime.tensor(x), tvm.runtime.tensor(weight)]
    mod = module(case)
    default = relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())["forward"]
    ours = relax.VirtualMachine(schedules.build(mod), tvm.cpu())["forward"]
    best = measure(
        {
            "numpy": lambda: wide @ (wide_weight.T if case.transposed else wide_weight),
            "default": lambda: default(*inputs),
            "ours": lambda: ours(*inputs),
        },
        seconds,
    )
    rate = 2 * case.rows * case.k * case.n / best["numpy"] / 1e9
    return (
        f"{case.name:44}{best['numpy'] * 1e3:9.3f} ms {rate:6.1f} GFLOP/s"
        f"{best['default'] / best['numpy']:9.2f}{best['ours'] / best['numpy']:9.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--quick", action="store_true", help="a quarter of the time for each kernel")
    arguments = parser.parse_args()
    seconds = 0.75 if arguments.quick else 3.0
    print(f"{'kernel (NumPy in float32)':44}{'NumPy':>12}{'':15}{'default':>9}{'ours':>9}   (times NumPy's)")
    for case in CASES:
        if arguments.only in case.name:
            print(compare(case, seconds), flush=True)


if __name__ == "__main__":
    main()
