"""Random changes of sharding beside Shardy's own passes: the bytes that a worker sends.

    python -m benchmarks.shardy_reshard [--quick]

Needs JAX, as `benchmarks.shardy` does; only its compiler passes run. On each of four meshes of 8 workers, tensors of one to three
dimensions go from one random sharding to another, over whole axes and over parts of them. For Shardy the collectives are those that its
pass `sdy-reshard-to-collectives` writes; for us the moves of a cost under which bytes alone count. Of N workers that meet with b bytes
each, an all-gather sends ``(N - 1) b``, an all-to-all ``(N - 1) / N b``, an exchange of shards b, and a slice nothing. It fails where
Shardy sends less.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.shardy import MISSING
from examples.llm.report import table
from spmd import Cost, Mesh, Profile, Sharding

BYTES = Profile("bytes", flops=1e30, memory_bandwidth=1e30, link_bandwidth=1.0, link_latency=0.0)
MESHES = ({"x": 8}, {"x": 2, "y": 4}, {"x": 4, "y": 2}, {"x": 2, "y": 2, "z": 2})
Dims = list[list[str]]
"""The axes, or parts of them as Shardy writes them, of each dimension."""
_OPERATION = re.compile(r"sdy\.(all_gather|all_slice|all_to_all|collective_permute|\w+) (.*?) ?%\w+ out_sharding")
_AXIS = re.compile(r'"(\w+)"(?::\((\d+)\)(\d+))?')


def placed(axes: Mapping[str, int], rank: int, rng: random.Random) -> Dims:
    """A random sharding."""
    pieces: list[str] = []
    for name, size in axes.items():
        cut = rng.choice([cut for cut in range(1, size + 1) if size % cut == 0]) if rng.random() < 0.3 else 1
        pieces += [f"{name}(1){cut}", f"{name}({cut}){size // cut}"] if 1 < cut < size else [name]
    rng.shuffle(pieces)
    dims: Dims = [[] for _ in range(rank)]
    for piece in pieces:
        place = rng.randrange(rank + 1)
        if place < rank:
            dims[place].append(piece)
    mesh = Mesh(**axes)
    return [list(mesh.canonical(dim)) for dim in dims]


def ours(mesh: Mesh, shape: Sequence[int], ends: tuple[Dims, Dims]) -> float:
    """The bytes that a worker sends by the moves of the plan."""
    source, target = (Sharding.parse(f"[{', '.join('+'.join(axes) or '-' for axes in dims)}]", tuple(shape)) for dims in ends)
    cost = Cost(mesh, BYTES)
    steps = cost.transfers.steps(tuple(shape), 4, source, target)
    if steps is None:
        raise RuntimeError(f"there is no way from {source} to {target}")
    return sum(cost.exchange_time(s.kind, s.axis, cost.step_bytes(s, tuple(shape), 4)) for s in steps if s.kind != "slice")


class Shardy:
    """Its pass that writes a change of sharding as collectives."""

    def __init__(self) -> None:
        from jax._src.interpreters import mlir
        from jaxlib.mlir import ir
        from jaxlib.mlir.passmanager import PassManager

        self._ir: Any = ir
        self._context: Any = mlir.make_ir_context()
        with self._context:
            self._passes: Any = PassManager.parse("builtin.module(func.func(sdy-reshard-to-collectives))")

    def sent(self, axes: Mapping[str, int], shape: Sequence[int], ends: tuple[Dims, Dims]) -> float:
        """The bytes that a worker sends."""
        tensor = f"tensor<{'x'.join(map(str, shape))}xf32>"
        mesh = ", ".join(f'"{name}"={size}' for name, size in axes.items())
        source, target = (_text(dims) for dims in ends)
        text = f"""
            sdy.mesh @mesh = <[{mesh}]>
            func.func @main(%x: {tensor} {{sdy.sharding = #sdy.sharding<@mesh, {source}>}}) -> {tensor} {{
              %y = sdy.reshard %x <@mesh, {target}> : {tensor}
              return %y : {tensor}
            }}"""
        with self._context:
            module = self._ir.Module.parse(text)
            self._passes.run(module.operation)
        held = 4 * math.prod(shape) / math.prod(_workers(axes, source))
        return _bytes(axes, held, [(m[1], m[2]) for line in str(module).splitlines() if (m := _OPERATION.search(line))])


def _bytes(axes: Mapping[str, int], held: float, operations: Sequence[tuple[str, str]]) -> float:
    sent = 0.0
    for kind, over in operations:
        workers = math.prod(_workers(axes, over))
        if kind == "all_gather":
            sent, held = sent + held * (workers - 1), held * workers
        elif kind == "all_slice":
            held /= workers
        elif kind == "all_to_all":
            sent += held * (workers - 1) / workers
        elif kind == "collective_permute":
            sent += held
        else:
            raise RuntimeError(f"this JAX writes a collective that is not known: sdy.{kind}")
    return sent


def _workers(axes: Mapping[str, int], text: str) -> list[int]:
    return [int(part) if part else axes[name] for name, _, part in _AXIS.findall(text)]


def _text(dims: Dims) -> str:
    def named(name: str) -> str:
        base, _, part = name.partition("(")
        return f'"{base}"' + (f":({part}" if part else "")

    return "[" + ", ".join("{" + ", ".join(map(named, axes)) + "}" for axes in dims) + "]"


def main() -> None:
    """Print a line for each mesh, and the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 changes instead of 1,500")
    parser.add_argument("--seed", type=int, default=0, help="other random changes")
    options = parser.parse_args()
    try:
        peer = Shardy()
    except ModuleNotFoundError as error:
        if error.name not in ("jax", "jaxlib"):
            raise
        print(MISSING)
        return
    rng, rows, more = random.Random(options.seed), list[tuple[str, ...]](), list[str]()
    total, start = [0.0, 0.0, 0, 0], time.process_time()
    for axes in MESHES:
        here = [0.0, 0.0, 0, 0]
        for _ in range((200 if options.quick else 1500) // len(MESHES)):
            rank = rng.randint(1, 3)
            shape = [rng.choice([8, 16, 32, 64]) for _ in range(rank)]
            ends = placed(axes, rank, rng), placed(axes, rank, rng)
            theirs, found = peer.sent(axes, shape, ends), ours(Mesh(**axes), shape, ends)
            fewer, worse = found < theirs - 1e-3, found > theirs + 1e-3
            here = [a + b for a, b in zip(here, (theirs, found, fewer, worse), strict=True)]
            if worse:
                more.append(f"{axes} {shape} {_text(ends[0])} -> {_text(ends[1])}: {found:g} bytes, Shardy {theirs:g}")
        rows.append((str(Mesh(**axes)), *_cells(here)))
        total = [a + b for a, b in zip(total, here, strict=True)]
    rows.append(("all", *_cells(total)))
    print(table(("mesh", "Shardy, bytes", "spmd, bytes", "ratio", "fewer", "more"), rows))
    print(f"\n{time.process_time() - start:.1f} CPU seconds, Shardy's among them")
    if more:
        sys.exit("\n".join(["Shardy sends less:", *more]))


def _cells(found: Sequence[float]) -> tuple[str, ...]:
    theirs, sent, fewer, more = found
    return f"{theirs:,.0f}", f"{sent:,.0f}", f"{sent / theirs:.3f}", f"{fewer:.0f}", f"{more:.0f}"


if __name__ == "__main__":
    main()
