"""A Llama block beside JAX with Shardy: what each worker brings, and how long planning takes.

    python -m benchmarks.shardy [--quick]

Needs JAX, which nothing else here does: `pip install 'spmd[peers]'`, or `pip install 'jax>=0.10'`. It runs on 8 virtual CPU devices.

The block is `tests/models/llama_block.py` and the same in JAX (their numbers are compared first): forward, and backward by `x` and all
weights. Annotated are all seven projections as in Megatron, or q, k, v, gate and up, or nothing; on 8 workers also k and v in 4 groups, one
a head. On two axes `x` is split over dp, where anything is annotated. The gradient of an annotated weight is returned as the weight is
held, that of another as the compiler likes, and all else is whole. `brings` are the bytes of the tensors that enter a collective, on each
worker; one collective may take several tensors. For JAX that is read in the program that XLA has optimized for the CPU. `ring` is what a
ring algorithm then sends, and `weights` the bytes of weights that each worker holds.

Planning is `spmd.plan` of the Relax module beside Shardy's propagation and explicit reshards of the StableHLO module, all weights
annotated, forward: CPU seconds, the best of several runs that take turns.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

import spmd
from examples.llm.report import table
from spmd import Mesh, P
from tests.models.llama_block import BATCH, HIDDEN, KV_HEADS, SEQUENCE, WEIGHTS, llama_blocks, with_gradients

if TYPE_CHECKING:
    from benchmarks.jax_block import Sent, Specs
    from spmd.plan.decisions import Collective

COLUMNS, ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj")
ANNOTATED = {"all": (*COLUMNS, *ROWS), "all, k v in 4": (*COLUMNS, *ROWS), "q k v gate up": COLUMNS, "nothing": ()}
MISSING = "not measured: JAX is missing. Install it with: pip install 'spmd[peers]', or pip install 'jax>=0.10' (it needs Python 3.11)"


def specs(mesh: Mesh, annotated: str) -> Specs:
    """Name -> the axes of each dimension."""
    names = ANNOTATED[annotated]
    found = {n: (None, "tp") if n in COLUMNS else ("tp", None) for n in names}
    if annotated.endswith("in 4"):
        found |= dict.fromkeys(("k_proj", "v_proj"), (None, f"tp(1){KV_HEADS}"))
    return found | ({"x": ("dp", None, None)} if "dp" in mesh.axes and names else {})


def to_spmd(wanted: Specs, *, backward: bool) -> dict[str, P]:
    """As `spmd.plan` takes them, results included."""
    found = {f"*.{name}": P(*spec) for name, spec in wanted.items()}
    if backward:
        ends = {n: ("?",) * len(shape) for n, shape in WEIGHTS.items()} | dict(wanted)
        return found | {f"main_adjoint.return[1][{['x', *WEIGHTS].index(n)}]": P(*spec) for n, spec in ends.items()}
    return found | ({"main.return": P(*wanted["x"])} if "x" in wanted else {})


def to_jax(mesh: Mesh, wanted: Specs) -> tuple[Mapping[str, int], Specs]:
    """Mesh axes and specs for JAX, where a part of an axis is an axis of its own."""
    part = f"tp(1){KV_HEADS}"
    if not any(part in spec for spec in wanted.values()):
        return mesh.axes, wanted
    names = {"tp": ("major", "minor"), part: "major", None: None}
    return {"major": KV_HEADS, "minor": mesh.size // KV_HEADS}, {n: tuple(names[a] for a in spec) for n, spec in wanted.items()}


def measured(mesh: Mesh, wanted: Specs, *, backward: bool) -> tuple[list[Sent], int, bool]:
    """The collectives of a plan for one block, the bytes of weights that a worker holds, and whether it is known to be an optimum."""
    from benchmarks.jax_block import Sent

    plan = spmd.plan(with_gradients() if backward else llama_blocks(), mesh, to_spmd(wanted, backward=backward))
    held = [plan.params[f"layers.0.{name}"].local_shape(shape, mesh) for name, shape in WEIGHTS.items()]
    calls: dict[tuple[str, int], list[Collective]] = {}
    for i, c in enumerate(plan.collectives):
        calls.setdefault((c.function, c.bundle or -i - 1), []).append(c)
    sent = [Sent(cs[0].kind, sum(c.bytes for c in cs), len(cs), mesh.axis_size(cs[0].axis)) for cs in calls.values()]
    return sent, sum(4 * math.prod(shape) for shape in held), not any("optimum" in note for note in plan.notes)


def cells(sent: Sequence[Sent], weights: int, optimum: bool = True) -> tuple[str, str, str, str]:
    """What is said of one program."""
    kinds: list[str] = []
    for kind in dict.fromkeys(s.kind for s in sent):
        these = [s for s in sent if s.kind == kind]
        tensors = sum(s.tensors for s in these)
        of = f" of {tensors} tensors" if tensors > len(these) else ""
        kinds.append(f"{len(these)} {kind}{of} {sum(s.bytes for s in these):,}")
    rounds = {"all_reduce": lambda n: 2 * (n - 1) / n, "all_gather": lambda n: n - 1, "permute": lambda n: 1}
    ring = sum(s.bytes * rounds.get(s.kind, lambda n: (n - 1) / n)(s.workers) for s in sent)
    said = (", ".join(kinds) or "none") + ("" if optimum else " (perhaps not the optimum)")
    return f"{sum(s.bytes for s in sent):,}", f"{ring:,.0f}", f"{weights:,}", said


def difference() -> float:
    """The largest difference of the loss and of all gradients between the two, over the largest entry of each; ours on 2 workers."""
    from benchmarks.jax_block import gradients

    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, SEQUENCE, HIDDEN)).astype(np.float32)
    weights = {n: (rng.standard_normal(s) / s[0] ** 0.5).astype(np.float32) for n, s in WEIGHTS.items()}
    mesh = Mesh(tp=2)
    with spmd.workers(spmd.shard(with_gradients(), mesh, to_spmd(specs(mesh, "all"), backward=True))) as run:
        loss, ours = run["main_adjoint"](x, *weights.values())
    expected, (by_x, (by_weight,)) = gradients(x, [weights])
    pairs = [(loss, expected), *zip(ours, [by_x, *(by_weight[n] for n in WEIGHTS)], strict=True)]
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in pairs)


def planning(mesh: Mesh, layers: int, runs: int) -> tuple[str, ...]:
    """One line of the table of times."""
    from benchmarks.jax_block import planner

    wanted = specs(mesh, "all")
    module, peer = llama_blocks(layers), planner(*to_jax(mesh, wanted), layers)
    theirs, ours = [], []
    for _ in range(runs):
        theirs.append(peer())
        start = time.process_time()
        plan = spmd.plan(module, mesh, to_spmd(wanted, backward=False))
        ours.append(time.process_time() - start)
        if len(mesh.axes) < 3 and len(plan.collectives) != 2 * layers:  # a third axis finds work of its own
            raise RuntimeError(f"the plan has {len(plan.collectives)} collectives in {layers} layers, not 2 in each")
    return str(mesh), str(layers), f"{min(theirs):.2f}", f"{min(ours):.2f}", f"{min(ours) / min(theirs):.1f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="meshes of 4 and of 8 workers only, planning of 8 layers only, once")
    quick = parser.parse_args().quick
    try:
        from benchmarks import jax_block
    except ModuleNotFoundError as error:
        if error.name not in ("jax", "jaxlib"):
            raise
        print(MISSING)
        return
    found = difference()
    print(f"largest relative difference of the loss and the gradients: {found:.1e}\n")
    if found > 1e-4:
        sys.exit("the two do not do the same work")
    rows: list[tuple[str, ...]] = []
    for mesh in (Mesh(tp=4), Mesh(tp=8)) if quick else (Mesh(tp=2), Mesh(tp=4), Mesh(tp=8), Mesh(dp=2, tp=4)):
        for annotated in ANNOTATED:
            if annotated.endswith("in 4") and mesh.axes["tp"] <= KV_HEADS:
                continue
            wanted = specs(mesh, annotated)
            for backward in (False, True):
                where = (str(mesh), annotated, "backward" if backward else "forward")
                rows.append((*where, "JAX", *cells(*jax_block.measured(*to_jax(mesh, wanted), backward=backward))))
                rows.append((*where, "spmd", *cells(*measured(mesh, wanted, backward=backward))))
    print(table(("mesh", "annotated", "pass", "", "brings", "ring", "weights", "collectives and what they are brought"), rows) + "\n")
    meshes = (Mesh(tp=4), Mesh(dp=2, tp=4), Mesh(dp=2, tp=2, cp=2))
    times = [planning(mesh, n, 1 if quick else 5) for mesh in meshes for n in ((8,) if quick else (32, 80))]
    print(table(("mesh", "layers", "Shardy, s", "spmd, s", "ratio"), times))


if __name__ == "__main__":
    main()
